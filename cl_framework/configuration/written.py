"""Settings as a person writes them, on the command line and in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration import messages, shorthand
from cl_framework.errors import UserError


def yaml_of(path: str) -> Any:
    """Return what a config file holds.

    Raises:
        UserError: If it is no YAML.
    """
    try:
        return shorthand.read_config(Path(path).expanduser().read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(messages.no_yaml(path, error)) from error

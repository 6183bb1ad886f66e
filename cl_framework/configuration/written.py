"""Settings as a person writes them in YAML, in a file or on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration import messages, shipped, shorthand
from cl_framework.errors import UserError


def yaml_of(given: str) -> Any:
    """Return what a config holds.

    Args:
        given: The path of a file, or YAML itself.

    Raises:
        UserError: If there is no such file, or it is no YAML.
    """
    if shipped.is_text(given) and not os.path.isfile(os.path.expanduser(given)):  # a text may be too long for a name
        return _parsed(given, "The config on the command line")
    try:
        text = Path(given).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(messages.no_yaml(given, error)) from error
    except FileNotFoundError as error:
        raise UserError(f"There is no file {given}; give the path of a config that exists.") from error
    return _parsed(text, given)


def _parsed(text: str, name: str) -> Any:
    try:
        return shorthand.read_config(text)
    except yaml.YAMLError as error:
        raise UserError(messages.no_yaml(name, error)) from error

"""Short spellings in configs: ``backbone: huggingface:NAME`` for a class and the one argument that everybody gives."""

from __future__ import annotations

from enum import Enum
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional
from jsonargparse import get_loader, set_dumper, set_loader

from cl_framework.errors import UserError

MODE = "yaml_with_short_spellings"
SHORT = {"huggingface": "HuggingFace", "timm": "Timm"}
"""What stands before the colon, and the backbone whose ``name`` comes after it."""
MOVED = {
    "scenarios.transform.": "scenarios.pictures.transforms.",
    "cl_framework.published.": "cl_framework.evaluation.published.",
}
"""Modules that configs of older runs name, and where they are now."""


def spelled_out(value: Any) -> Any:
    """Return what a short spelling stands for, and everything else as it is.

    >>> spelled_out("timm:vit_base_patch16_224")
    {'class_path': 'Timm', 'init_args': {'name': 'vit_base_patch16_224'}}
    >>> spelled_out("glyphs:classes=100")
    'glyphs:classes=100'
    """
    kind, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    return {"class_path": SHORT[kind], "init_args": {"name": name}} if colon and name and kind in SHORT else value


def moved(value: Any) -> Any:
    """Return the dotted name of a class where it is now, and everything else as it is.

    >>> moved("scenarios.transform.Pilot"), moved("EASE"), moved(3)
    ('scenarios.pictures.transforms.Pilot', 'EASE', 3)
    """
    old = next((o for o in MOVED if isinstance(value, str) and value.startswith(o)), None)
    return MOVED[old] + value.removeprefix(old) if old else value


def read_config(text: str) -> Any:
    """Parse YAML, a whole file or the value of one flag; spell out backbones and name classes where they are now.

    >>> read_config("model: {backbone: huggingface:./minilm}")["model"]["backbone"]["class_path"]
    'HuggingFace'
    """
    config = get_loader("yaml")(text)
    try:
        return _in(config) if isinstance(config, dict) else spelled_out(moved(config))
    except RecursionError as e:
        raise UserError("A section of the config contains itself by a YAML alias; write it out in its place.") from e


def _in(config: dict[str, Any]) -> dict[str, Any]:
    def one(key: Any, value: Any) -> Any:
        if isinstance(value, dict):
            return _in(value)
        return spelled_out(value) if str(key).split(".")[-1] == "backbone" else moved(value)

    return {key: one(key, value) for key, value in config.items()}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc, unused-ignore]  # stubs are optional
    """Writes a choice of a library, such as the interval of its timer, by name."""


_Dumper.add_multi_representer(Enum, lambda dumper, choice: dumper.represent_str(choice.name))
set_loader(MODE, read_config, exceptions=(yaml.YAMLError,))
set_dumper(MODE, lambda config: str(yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)))

"""The optimiser's settings where they come from several places: a config, flags, and what a run was resumed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration import flags as configuration_flags
from cl_framework.configuration import shipped, shorthand, written
from cl_framework.configuration.flags import OPTIMISER

SECTION = "model.optimizer"


def apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options that change how a run goes on, with their values, and all others.

    >>> apart(["--data.scenario", "Mixed", "--model.optimizer.lr", "0.1", "--model.schedule=constant"])
    (['--model.optimizer.lr', '0.1', '--model.schedule=constant'], ['--data.scenario', 'Mixed'])
    """
    parts: tuple[list[str], list[str]] = [], []
    mine = False
    for word in words:
        mine = word.partition("=")[0].startswith(OPTIMISER) if word.startswith("--") else mine
        parts[not mine].append(word)
    return parts


def leftover_warning(argv: Sequence[str], config: str) -> str | None:
    """Return a warning where a class of optimiser has settings that were given for another class; None where not.

    Args:
        argv: The arguments of ``run`` or ``plan``.
        config: What they amount to, as YAML.
    """
    final = (yaml.safe_load(config).get("model") or {}).get("optimizer")
    if not isinstance(final, Mapping):
        return None
    owners: dict[str, str] = {}
    now = ""
    for name, value in _given(argv):
        if name in (SECTION, f"{SECTION}.class_path") and isinstance(value, str):
            now = value
        elif name.startswith(f"{SECTION}."):
            owners[name.rpartition(".")[2]] = now
    mine, settings = _short(str(final.get("class_path"))), final.get("init_args") or {}
    old = {k: _short(owner) for k, owner in owners.items() if owner and _short(owner) != mine and k in settings}
    if not old:
        return None
    leftovers = " and ".join(f"{k} {settings[k]}" for k in old)
    flags = " ".join(f"--{SECTION}.{k} VALUE" for k in old)
    return f"{mine} keeps {leftovers}, given for {', '.join(dict.fromkeys(old.values()))}; {flags} sets another."


def _given(argv: Sequence[str]) -> list[tuple[str, Any]]:
    """Return settings of the optimiser in the order they are given, each class before its settings."""
    pairs: list[tuple[str, Any]] = []
    for name, text in configuration_flags.options(shipped.with_paths(argv)):
        if name == "config" and text and Path(text).expanduser().is_file():
            section = written.yaml_of(text)
            section = section.get("model") if isinstance(section, Mapping) else None
            value = section.get("optimizer") if isinstance(section, Mapping) else None
        elif name.startswith(SECTION) and text is not None:
            try:
                value = shorthand.read_config(text)
            except yaml.YAMLError:
                continue
            if name != SECTION:
                pairs.append((name, value))
                continue
        else:
            continue
        if isinstance(value, Mapping):
            pairs += [(SECTION, value["class_path"])] if "class_path" in value else []
            pairs += [(f"{SECTION}.{key}", v) for key, v in (value.get("init_args") or {}).items()]
        elif value is not None:
            pairs.append((SECTION, value))
    return pairs


def _short(name: str) -> str:
    return name.rpartition(".")[2]

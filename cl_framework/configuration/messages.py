"""Sentences about mistakes in a config: what is wrong, what was found, what is accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cl_framework.configuration.shorthand import SHORT
from cl_framework.errors import did_you_mean
from cl_framework.settings import ranges
from cl_framework.settings.declared import known_to_timm
from cl_framework.settings.kinds import Kind


def no_setting(owner: str, name: str, known: Sequence[str]) -> str:
    """Say that a class takes no such setting."""
    hint = did_you_mean(name, known) if known else "It takes none."
    return f"{owner} has no setting {name!r}. {hint}"


def no_yaml(path: str, error: Exception) -> str:
    """Say where a config file is no YAML."""
    mark = getattr(error, "problem_mark", None)
    where = f" near line {mark.line + 1}" if mark else ""
    cause = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    return f"{path} is not valid YAML{where}: {cause}."


def no_class(place: str, name: str, known: Sequence[str], role: str | None = None) -> str:
    """Say that there is no class of that name.

    Args:
        place: The setting that names it.
        name: The name.
        known: The names that there are.
        role: What the class would be; None for a class of a library.
    """
    if role == "backbone" and ":" in name:
        known = [f"{short}:{name.partition(':')[2]}" for short in SHORT]
    elif role == "backbone" and name and known_to_timm(name):
        return f"There is no backbone {name!r}. For a model of timm's, write timm:{name}."
    if role is not None:
        return f"There is no {role} {name!r}. {did_you_mean(name, known)}"
    hint = did_you_mean(name, known) if known else "Give its import path, such as torch.optim.SGD."
    return f"{place}: there is no class {name!r}. {hint}"


def no_key(key: str, sections: Mapping[str, Sequence[str]], options: Sequence[str]) -> str:
    """Say that a config has no such key."""
    known = [f"{section}.{name}" for section, names in sections.items() for name in names]
    hint = did_you_mean(key, [*known, *sections, *options])
    return f"There is no setting {key!r}. " + (hint if hint.startswith("Did") else "`clf run --help` lists them.")


def wrong_value(place: str, kind: Kind, value: Any) -> str:
    """Say what a setting takes, where its value is nothing of that."""
    if isinstance(value, str) and "float" in kind.plain and value.lstrip("+-").lower() in ("nan", "inf", "infinity"):
        return f"{place} must be a finite number; found {value}."
    if kind.choices and not set(kind.plain) - {"None", "bool"}:
        known = [*dict.fromkeys(map(str, kind.choices)), *(["true", "false"] if "bool" in kind.plain else [])]
        return f"{place} cannot be {as_written(value)}. {did_you_mean(str(value), known)}"
    limit = ranges.range_of(place) if {"int", "float"} & {*kind.plain} else None
    kind = replace(kind, plain=tuple(p for p in kind.plain if p != "None" or place not in ranges.NEEDED))
    return f"{place} must be {kind.says()}{f' ({limit.says})' if limit else ''}; found {as_written(value)}."


def wrong_part(place: str, kind: Kind, value: Any, settings: Sequence[str]) -> str:
    """Say that a part is described by a class or settings, where the value is neither.

    Args:
        place: The part.
        kind: What it takes.
        value: The value.
        settings: The settings of its class, if it can be of one class only.
    """
    names = " or ".join(dict.fromkeys(part.name for part in kind.parts))
    form = (
        f"a table of {', '.join(settings)}"
        if settings
        else f"a class of {names}, or a table of class_path and init_args"
    )
    plain = f", or {kind.says()}" if kind.says() else ""
    return f"{place} must be {form}{plain}; found {as_written(value)}."


def needs(who: str, place: str, names: Sequence[str]) -> str:
    """Say which settings without a default a part lacks."""
    options = " ".join(f"--{place}.{name} ..." for name in names)
    return f"{who} needs {', '.join(names)}; set it, as in {options}"


def as_written(value: Any) -> str:
    """Return a value as a config writes it.

    >>> as_written("three"), as_written(None), as_written(True), as_written([1, "a"])
    ("'three'", 'null', 'true', '[1, a]')
    """
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(v if isinstance(v, str) else as_written(v) for v in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

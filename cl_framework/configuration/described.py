"""Objects as the config that makes them again: class paths and the arguments that each part was made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import partial
from importlib import import_module
from numbers import Integral, Real
from typing import Any, TypeAlias

import torch

from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.settings import Recorded, arguments
from cl_framework.streams.scenario import Scenario

IN_MEMORY = "without run_dir the run stays in memory and takes any object"
Written: TypeAlias = Any
"""What YAML can hold: None, truth, numbers, words, lists and mappings of such."""


def config_from(learner: Learner, scenario: Scenario, **data: float) -> dict[str, Written]:
    """Return the ``model:`` and ``data:`` sections that make these objects again.

    Args:
        learner: The model and its strategies.
        scenario: The stream.
        data: Further settings of the ``data:`` section.

    Raises:
        UserError: If a part cannot be written as text, naming it and saying what can.
    """
    model = {name: written(value, name) for name, value in arguments(learner).items()}
    return {"model": model, "data": {"scenario": written(scenario, "stream"), **data}}


def class_paths(config: Written) -> Iterator[str]:
    """Yield every class path in a config.

    >>> list(class_paths({"strategy": {"class_path": "a.B", "init_args": {"inner": [{"class_path": "c.D"}]}}}))
    ['a.B', 'c.D']
    """
    if isinstance(config, Mapping):
        yield from [config["class_path"]] if "class_path" in config else []
        for value in config.values():
            yield from class_paths(value)
    elif isinstance(config, list):
        for value in config:
            yield from class_paths(value)


def remade(value: Any) -> Any:
    """Return a part made again from its arguments, and so all parts in it; other values as they are."""
    if isinstance(value, Recorded):
        return type(value)(**{name: remade(given) for name, given in arguments(value).items()})
    return [remade(item) for item in value] if isinstance(value, list) else value


def check_remade(learner: Learner, seed: Callable[[], object]) -> None:
    """Make sure that the backbone's arguments give its weights again: whoever opens the run has nothing else.

    Args:
        learner: Whose backbone it is.
        seed: Sets the seed, as it is set before a config is built.

    Raises:
        UserError: If they give others.
    """
    backbone = learner.model.backbone
    seed()
    if type(backbone)(**arguments(backbone)).digest() != backbone.digest():
        raise UserError(
            f"{type(backbone).__name__} has other weights than its arguments give, so no one could open the run again; "
            f"save them to a file and name it as its weights, or leave out run_dir: {IN_MEMORY}."
        )


def written(value: Any, place: str) -> Written:
    """Return a value as YAML can hold it.

    Args:
        value: Any argument.
        place: What it is for, for the message.

    Raises:
        UserError: If there is no text for it.
    """
    if isinstance(value, Recorded):
        return _made(type(value), arguments(value), place)
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        return _made(value.func, value.keywords, place)
    if isinstance(value, type):
        return _made(value, {}, place)
    if is_dataclass(value):
        return _of_dataclass(value, place)
    if isinstance(value, Mapping):
        return {str(_plain(key, place)): written(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(written(item, place) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [written(item, f"{place}[{i}]") for i, item in enumerate(value)]
    return _plain(value, place)


def _plain(value: Any, place: str) -> Written:
    """Return a single value as YAML can hold it."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    what = getattr(value, "__qualname__", None) or f"a {type(value).__name__}"
    raise UserError(
        f"{place} is {what}, which the config of a run cannot hold; give a number, a word, an object of a class that "
        f"can be imported or functools.partial of such a class, or leave out run_dir: {IN_MEMORY}."
    )


def _made(kind: type, given: Mapping[str, Any], place: str) -> dict[str, Written]:
    """Return a class and its arguments."""
    args = {name: written(value, f"{place}.{name}") for name, value in given.items()}
    return {"class_path": _path(kind, place), **({"init_args": args} if args else {})}


def _of_dataclass(value: Any, place: str) -> dict[str, Written]:
    """Return what differs from the defaults; with its class where a setting may hold others, as adapters of peft."""
    taken = [f for f in fields(value) if f.init]
    required = {f.name for f in taken if f.default is MISSING and f.default_factory is MISSING}
    pristine = type(value)(**{name: getattr(value, name) for name in required})
    given = {
        f.name: written(now, f"{place}.{f.name}")
        for f in taken
        if (now := getattr(value, f.name)) != getattr(pristine, f.name) or f.name in required
    }
    ours = type(value).__module__.partition(".")[0] in ("cl_framework", "scenarios", "strategies")
    return given if ours else {"class_path": _path(type(value), place), "init_args": given}


def _path(kind: type, place: str) -> str:
    """Return the shortest path that a class can be imported from, as the parser of configs names it.

    Raises:
        UserError: If there is none.
    """
    name, parts = kind.__qualname__, kind.__module__.split(".")
    packages = [".".join(parts[: i + 1]) for i in range(len(parts))] if parts != ["__main__"] else []
    try:
        return next(f"{p}.{name}" for p in packages if getattr(import_module(p), name, None) is kind)
    except (ImportError, StopIteration):
        raise UserError(
            f"{place} is of the class {name}, which cannot be imported again; save the class in a module of its own, "
            f"or leave out run_dir: {IN_MEMORY}."
        ) from None

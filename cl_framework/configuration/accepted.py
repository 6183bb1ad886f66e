"""What a config may say: its sections, its options, and the classes that each part may be.

The one description of it. It is read from source files, so that a mistake is answered before torch is imported; the
full parser is asked only about what passes here, and its own options are added from the tables below.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import final

from cl_framework.configuration import messages
from cl_framework.errors import UserError, did_you_mean
from cl_framework.evaluation.published import Published
from cl_framework.settings import declared, discovery, kinds, signatures, trust
from cl_framework.settings.kinds import Kind, Setting
from cl_framework.settings.signatures import Declared, Parameter

SECTIONS = {
    "model": ("cl_framework.engine.learner", "Learner"),
    "data": ("cl_framework.configuration.sections", "Data"),
    "trainer": ("pytorch_lightning.trainer.trainer", "Trainer"),
}
"""The class behind each section of a config."""
DEFAULTS = {
    "model.backbone": "cl_framework.backbones.glyph.GlyphViT",
    "model.adapter": "cl_framework.adapters.bottleneck.Bottleneck",
    "model.strategy": "strategies.learning.ease.EASE",
    "model.optimizer": "torch.optim.sgd.SGD",
}
"""The class of a part unless a config names one."""
OF_LIGHTNING = {"config": "str", "print_config": "str | None", "seed_everything": "bool | int"}
"""Settings outside the sections that Lightning adds, and their types."""
VALUELESS = ("print_config", "skip_unreadable")
"""Options that stand without a value."""
LIBRARIES = {
    "Logger": "pytorch_lightning.loggers",
    "Callback": "pytorch_lightning.callbacks",
    "Profiler": "pytorch_lightning.profilers",
    "Optimizer": "torch.optim",
    "LRScheduler": "torch.optim.lr_scheduler",
}
"""Interfaces of libraries, and the modules that have the classes."""
INTERFACES = {interface: kind for kind, interface in discovery.KINDS.items()}


@final
@dataclass(frozen=True)
class Options:
    """Settings outside the sections that we add."""

    run_dir: str | None = field(default=None, metadata={"help": "Directory of the run; runs/NAME when not given."})
    features: str | None = field(
        default=None,
        metadata={"help": "Directory where runs find each other's features; by default $CLF_FEATURES, else none."},
    )
    features_limit: float = field(default=10.0, metadata={"help": "Most GiB to keep there."})
    threads: int | None = field(
        default=None,
        metadata={
            "help": "CPU threads; by default $CLF_THREADS, $OMP_NUM_THREADS, one for a backbone below 20 M parameters, "
            "else one for each core."
        },
    )
    skip_unreadable: bool = field(
        default=False, metadata={"help": "Leave out files and rows that cannot be read, and say which."}
    )
    published: Published | None = field(default=None, metadata={"help": "What a paper reports; see `clf reproduce`."})


@cache
def section(name: str) -> Mapping[str, Setting]:
    """Return the settings of a section by name; none if there is no such section."""
    declared = signatures.find_declared(*SECTIONS[name]) if name in SECTIONS else None
    return kinds.settings((declared and signatures.parameters(declared)) or {})


@cache
def other_settings() -> Mapping[str, Setting]:
    """Return the settings outside the sections."""
    ours = signatures.find_declared(__name__, "Options")
    added = kinds.settings((ours and signatures.parameters(ours)) or {})
    types = {name: ast.parse(annotation, mode="eval").body for name, annotation in OF_LIGHTNING.items()}
    return {name: Setting(Parameter(annotation, "builtins", False)) for name, annotation in types.items()} | added


def section_keys() -> dict[str, list[str]]:
    """Return the keys of each section."""
    return {name: list(section(name)) for name in SECTIONS}


@cache
def part_settings(part: Declared) -> Mapping[str, Setting] | None:
    """Return the settings of a class; None if it takes any, or if its source does not tell."""
    parameters = signatures.parameters(part)
    return None if parameters is None else kinds.settings(parameters)


def default(place: str, kind: Kind, whole: bool = True) -> Declared | None:
    """Return the class of a part for which a config names none; None if it has to name one, or is not ``whole``."""
    if place in DEFAULTS:
        return _declared(DEFAULTS[place]) if whole else None
    return next((p for p in kind.parts if not _abstract(p)), None) if len(kind.parts) == 1 else None


def named_class(place: str, kind: Kind, name: str, certain: bool) -> Declared | None:
    """Return the class that a name stands for; None if that cannot be told from source files.

    Args:
        place: The part, dotted.
        kind: What it may be.
        name: A class, with or without its module.
        certain: Whether a name that is not known is known to be wrong.

    Raises:
        UserError: If there is no such class, it may run any code, or it is no such part.
    """
    if "." in name and all(word.isidentifier() for word in name.split(".")):
        return _by_path(place, kind, name, certain)
    known = _classes(kind.parts)
    paths = list(dict.fromkeys(known.get(name, ())))
    if len(paths) > 1:
        raise UserError(f"{place}: there are several classes {name}; give the full path: {' or '.join(paths)}.")
    if paths:
        return _declared(paths[0])
    role = _role(place, kind)
    sentence = messages.no_class(place, name, [*kind.choices, *known], role)
    if certain or (not trust.trusted() and (role or "Did you mean" in sentence)):  # what is trusted may bring others
        raise UserError(sentence)
    return None


def _role(place: str, kind: Kind) -> str | None:
    """Return what to call a part of our own: a strategy, the stream within a scenario."""
    return place.rpartition(".")[2] if any(part.name in INTERFACES for part in kind.parts) else None


def _by_path(place: str, kind: Kind, path: str, certain: bool) -> Declared | None:
    trust.require(path, discovery.packages())
    module, _, name = path.rpartition(".")
    declared = signatures.find_declared(module, name)
    if declared is None:
        _check_there(place, module, name)
        return None
    trust.require(declared.path, discovery.packages())
    above = signatures.ancestors(declared)
    open_to_all = kind.supplied or any("Protocol" in signatures.bases(p) for p in kind.parts)
    refusable = certain or not trust.trusted()
    if refusable and above is not None and not open_to_all and not {part.path for part in kind.parts} & above:
        wanted = " or ".join(part.name for part in kind.parts)
        raise UserError(f"{place} must be of class {wanted}; {path} is not.")
    return declared


def _check_there(place: str, module: str, name: str) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        UserError: If it certainly does.
    """
    if trust.trusted():  # what is trusted may make modules of its own
        return
    if signatures.source_file(module) is None:
        raise UserError(f"{place}: there is no module {module}; check the path, or give the name of the class alone.")
    known = signatures.names(module)
    if known is not None and name not in known:
        hint = did_you_mean(name, [k for k in known if k[0].isupper()])
        raise UserError(f"{place}: there is no {module}.{name}. {hint}")


def _classes(parts: Iterable[Declared]) -> dict[str, list[str]]:
    """Return the classes that parts may be by their short names, with every path that a name may mean."""
    by_name: dict[str, list[str]] = {}
    for part in parts:
        for name, path in _named(part).items():
            by_name.setdefault(name, []).append(path)
    return by_name


@cache
def _library(module: str) -> Mapping[str, str]:
    homes = {name: signatures.find_declared(module, name) for name in declared.classes_in(module)}
    return {name: f"{module}.{name}" for name, home in homes.items() if home}


def _named(part: Declared) -> Mapping[str, str]:
    if part.name in INTERFACES:
        return {entry.name: f"{entry.module}.{entry.name}" for entry in discovery.catalogue(INTERFACES[part.name])}
    if part.name in LIBRARIES:
        return _library(LIBRARIES[part.name])
    file = signatures.source_file(part.module)
    beside = [n for n in signatures.tree(file).body if isinstance(n, ast.ClassDef)] if file else []
    kin = [n.name for n in beside if part.name in map(ast.unparse, n.bases)]
    return {name: f"{part.module}.{name}" for name in [*kin, *([] if _abstract(part) else [part.name])]}


def _declared(path: str) -> Declared | None:
    module, _, name = path.rpartition(".")
    return signatures.find_declared(module, name)


def _abstract(part: Declared) -> bool:
    return bool({"ABC", "Protocol"} & {*signatures.bases(part)}) or part.name in LIBRARIES

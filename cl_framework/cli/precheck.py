"""Typing mistakes answered before anything heavy is imported, in the sentences of the full parser.

Only what is certainly wrong is refused: config files that are missing or no YAML, sections, classes and settings that
do not exist, data sources and options of verbs likewise, directories that hold no run or hold one already. Whatever
cannot be told from source files is left to the full parser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.cli import arguments
from cl_framework.cli.picking import requested
from cl_framework.configuration import messages, shipped, shorthand
from cl_framework.configuration.flags import left_over, options
from cl_framework.configuration.given import Given, check_inputs, check_type
from cl_framework.configuration.written import yaml_of
from cl_framework.errors import UserError
from cl_framework.runs.directory import Run
from cl_framework.settings import discovery, signatures

MADE_OF = {
    "model": ("cl_framework.engine.learner", "Learner"),
    "data": ("cl_framework.configuration.experiment", "Data"),
    "trainer": ("pytorch_lightning.trainer.trainer", "Trainer"),
}
"""The class behind each section of a config."""
_ROLES = {
    "model.backbone": "backbones",
    "model.adapter": "adapters",
    "model.strategy": "strategies",
    "model.unlearner": "unlearners",
    "data.scenario": "scenarios",
}
DEFAULTS = {"model.backbone": "GlyphViT", "model.adapter": "Bottleneck", "model.strategy": "EASE"}
OPTIONS = (
    "seed_everything", "run_dir", "features", "features_limit", "threads", "skip_unreadable", "published", "config",
    "print_config",
)  # fmt: skip
"""Settings outside the sections, as `experiment` adds them and Lightning does."""
ALONE = ("print_config", "skip_unreadable")
"""Settings that may stand without a value."""


def of_config(argv: Sequence[str], data: bool = True) -> list[str]:
    """Check the arguments of ``run`` and ``plan``; return them with configs as paths.

    Args:
        argv: The arguments.
        data: Also check that what the data source names is there.

    Raises:
        UserError: If something in them is certainly wrong.
    """
    words = shipped.with_paths(argv)
    if stray := left_over(words):
        raise UserError(f"There is {stray!r} too much; a value follows the name of its setting, as in --threads 2.")
    checked = _Config()
    for name, value in options(words):
        checked.take(name, value)
    checked.given.check()
    if data and not checked.unseen and "--print_config" not in words:
        checked.given.check_scenario("A config")
    if checked.run_dir is not None:
        Run.check_free(checked.run_dir)
    if checked.dataset is not None and data:
        discovery.data_sources().asked(checked.dataset)
    return words


def of_run(verb: str, argv: Sequence[str]) -> list[str]:
    """Check the arguments of a verb that opens a run.

    Raises:
        UserError: If something in them is certainly wrong.
    """
    args = arguments.parse(verb, argv)
    run = Run.open(args.dir)
    if getattr(args, "samples", None) or getattr(args, "where", None):
        requested(run, args.samples, args.where, [*args.classes, *args.experiences])
    named = [("model.unlearner", args.unlearner)] if getattr(args, "unlearner", None) else []
    checked = _Config(classes={})
    for name, value in [*named, *options(args.rest)]:
        checked.take(name, value)
    checked.given.check()
    if verb == "learn":
        checked.given.check_scenario("`clf learn`")
    if verb == "predict":
        check_inputs(args.files)
    if checked.dataset is not None:
        discovery.data_sources().asked(checked.dataset)
    return list(argv)


@dataclass(slots=True)
class _Config:
    """What a config says so far: the class in each role, known or not."""

    classes: dict[str, str] = field(default_factory=lambda: dict(DEFAULTS))
    run_dir: str | None = None
    dataset: str | None = None
    unseen: bool = False
    given: Given = field(default_factory=Given)
    listed: dict[str, dict[str, discovery.Entry]] = field(default_factory=dict)

    def take(self, name: str, text: str | None) -> None:
        """Take up an option of the command line."""
        if name.endswith(".help") or name in ("help", "help-all"):
            return
        if text is None and name not in ALONE:
            raise UserError(f"--{name} needs a value.")
        if name == "config":
            self._file(text or "")
            return
        value = shorthand.read_config(text) if text is not None and _reads(text) else text
        self._set(name.replace(".init_args.", "."), value)

    def _file(self, path: str) -> None:
        if not Path(path).expanduser().is_file():  # YAML itself, say
            self.unseen = True
            return
        read = yaml_of(path)
        for section, value in (read if isinstance(read, Mapping) else {}).items():
            if section in MADE_OF and isinstance(value, Mapping):
                for key, inner in value.items():
                    self._set(f"{section}.{key}", inner)
            else:
                self._set(str(section), value)

    def _set(self, name: str, value: Any) -> None:
        """Note that a setting is given, by its dotted name without ``init_args``."""
        section, _, rest = name.partition(".")
        key, _, deeper = rest.partition(".")
        _check_key(section, key)
        self.given.take(name, shorthand.spelled_out(value) if name == "model.backbone" else value)
        if section in MADE_OF and not deeper:
            check_type(name, value, _annotated(section).get(key))
        if section == "run_dir" and isinstance(value, str):
            self.run_dir = value
        role = f"{section}.{key}"
        if role not in _ROLES:
            return
        if not deeper:
            self._class(role, _ROLES[role], value)
        elif deeper not in ("class_path", "init_args"):
            self._setting(role, deeper, value)
        elif deeper == "class_path":
            self._class(role, _ROLES[role], value)

    def _class(self, role: str, kind: str, value: Any) -> None:
        """Note the class in a role, and check it and the settings given with it."""
        value = shorthand.spelled_out(value) if role.endswith("backbone") else value
        given = value if isinstance(value, Mapping) else {"class_path": value}
        name, settings = given.get("class_path"), given.get("init_args")
        if isinstance(name, str):
            self.classes[role] = name
            if "." not in name and name not in self._entries(kind):
                raise UserError(messages.no_class(role, name))
        for key, inner in (settings if isinstance(settings, Mapping) else {}).items():
            self._setting(role, str(key), inner)

    def _entries(self, kind: str) -> dict[str, discovery.Entry]:
        if kind not in self.listed:
            self.listed[kind] = {entry.name: entry for entry in discovery.catalogue(kind)}
        return self.listed[kind]

    def _setting(self, role: str, name: str, value: Any) -> None:
        """Check a setting of the class in a role."""
        key, _, deeper = name.partition(".")
        owner = self.classes.get(role)
        known = class_settings(self._entries(_ROLES.get(role, "scenarios")).get(owner)) if owner else None
        if known is None or key in ("class_path", "init_args", "dict_kwargs"):
            return
        if key not in known:
            raise UserError(messages.no_setting(str(owner), key, list(known)))
        if key == "stream":
            inside = f"{role}.stream"
            if not deeper or deeper == "class_path":
                self._class(inside, "scenarios", value)
            else:
                self._setting(inside, deeper, value)
        if key == "dataset" and isinstance(value, str):
            self.dataset = value  # a later one may replace it


def class_settings(entry: discovery.Entry | None) -> list[str] | None:
    """Return the settings of a class that a config may name; None if they cannot be told without importing it."""
    file = signatures.source_file(entry.module) if entry else None
    found = signatures.parameters(file, entry.name) if entry and file else None
    return None if found is None else list(found)


@cache
def _sections() -> dict[str, list[str]]:
    found = {}
    for section, (module, name) in MADE_OF.items():
        file = signatures.source_file(module)
        found[section] = list((file and signatures.parameters(file, name)) or {})
    return found


@cache
def _annotated(section: str) -> dict[str, str]:
    module, name = MADE_OF[section]
    file = signatures.source_file(module)
    return signatures.annotated(file, name) if file else {}


def _check_key(section: str, key: str) -> None:
    sections = _sections()
    known = sections.get(section)
    if known is None and section not in OPTIONS:
        raise UserError(messages.no_key(f"{section}.{key}" if key else section, sections))
    if known and key and key not in known:
        raise UserError(messages.no_key(f"{section}.{key}", sections))


def _reads(text: str) -> bool:
    try:
        shorthand.read_config(text)
    except yaml.YAMLError:
        return False
    return True

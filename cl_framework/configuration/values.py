"""Values of settings, checked against the types of their settings in one walk through a config.

Later values win, and another class drops the settings of the class before, as in the full parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration import accepted, messages, shorthand, written
from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import signatures
from cl_framework.settings.kinds import ANYTHING, Kind
from cl_framework.settings.signatures import Declared

OF_A_PART = ("class_path", "init_args", "dict_kwargs")
"""Keys of a part written out in full."""


@final
class Values:
    """What a config says of its parts so far.

    Attributes:
        parts: The class of each part that a config names, by place; None where source files do not tell.
        given: Every place that was given a value.
        open: Names of classes at places that the full parser alone can judge.
    """

    def __init__(self, certain: bool, whole: bool) -> None:
        """Begin with nothing.

        Args:
            certain: Whether what is not known is known to be wrong, since the full parser has refused it.
            whole: Whether parts without a class have their default class.
        """
        self.certain, self.whole = certain, whole
        self.parts: dict[str, tuple[Declared | None, Kind]] = {}
        self.given: set[str] = set()
        self.open: list[str] = []
        self._last: dict[str, str] = {}

    def take(self, place: str, kind: Kind, deeper: Sequence[str], value: Any, typed: bool = False) -> None:
        """Judge the value of a setting.

        Args:
            place: Its dotted name.
            kind: What it takes.
            deeper: Names below it to which the value belongs; none if it is its own.
            value: The value.
            typed: Whether it comes from the command line, where everything is text too.

        Raises:
            UserError: If it cannot be.
        """
        if not deeper:
            self._own(place, kind, value, typed)
        elif kind.items and kind.items[0].parts and place in self._last:  # options set the last one of a list
            self._below(self._last[place], kind.items[0], deeper, value, typed)
        elif kind.parts or (kind.items and kind.items[0].parts):
            self._below(place, kind if kind.parts else kind.items[0], deeper, value, typed)  # type: ignore[index]
        elif not kind.table and not kind.anything:
            raise UserError(f"{place} must be {kind.says()}; it has no setting {'.'.join(deeper)!r}.")

    def missing(self) -> Iterator[str]:
        """Yield a sentence for each part that lacks a setting without a default."""
        for place, (part, kind) in self.parts.items():
            settings = accepted.part_settings(part) if part else None
            names = [name for name, s in (settings or {}).items() if s.required][kind.supplied :]
            option = place.partition("[")[0]
            lacking = [n for n in names if not {f"{place}.{n}", f"{option}.{n}"} & self.given]
            if part and lacking and (self.certain or "[" not in place):
                who = place if kind.supplied else f"{place}: {part.name}"
                yield messages.needs(who, option, lacking)

    def _own(self, place: str, kind: Kind, value: Any, typed: bool) -> None:
        """Judge a value that belongs to the place itself."""
        self.given.add(place)
        if kind.anything:
            self.open += [value] if isinstance(value, str) else []
            return
        if _plain(kind, value, typed):
            return
        if isinstance(value, list | tuple) and kind.items is not None:
            self._items(place, kind.items, value)
        elif kind.parts or (kind.items and kind.items[0].parts and isinstance(value, str | Mapping)):
            self._part(place, kind if kind.parts else kind.items[0], value)  # type: ignore[index]
        elif not (kind.table and isinstance(value, Mapping)):
            raise UserError(messages.wrong_value(place, kind, value))

    def _items(self, place: str, kinds: tuple[Kind, ...], values: Sequence[Any]) -> None:
        self.parts = {at: part for at, part in self.parts.items() if not at.startswith(f"{place}[")}
        if len(kinds) > 1 and len(kinds) != len(values):
            raise UserError(f"{place} must be a list of {len(kinds)} values; found {len(values)}.")
        each = kinds if len(kinds) > 1 else (kinds or (ANYTHING,)) * len(values)
        for i, (kind, value) in enumerate(zip(each, values, strict=True)):
            self._own(f"{place}[{i}]", kind, value, False)
            self._last[place] = f"{place}[{i}]"

    def _part(self, place: str, kind: Kind, value: Any) -> None:
        """Judge the description of a part: its class, or a table of its class and settings."""
        value = shorthand.spelled_out(value) if any(p.name == "Backbone" for p in kind.parts) else value
        if isinstance(value, str) and Path(value).suffix in (".yaml", ".yml"):
            value = written.yaml_of(value)
        if isinstance(value, str):
            part = accepted.named_class(place, kind, value, self.certain)
            if part is None or part != self.parts.get(place, (None,))[0]:
                self.parts = {at: was for at, was in self.parts.items() if not at.startswith(f"{place}.")}
            self.parts[place] = (part, kind)
            self._last.pop(place, None)
            return
        if not isinstance(value, Mapping):
            part = accepted.default(place, kind, self.whole)
            settings = accepted.part_settings(part) if part and kind.parts == (part,) else None
            raise UserError(messages.wrong_part(place, kind, value, list(settings or ())))
        if "class_path" in value:
            self._part(place, kind, str(value["class_path"]))
        full = {"class_path", "init_args"} & value.keys()
        for key, inner in value.items():
            if full and key not in (*OF_A_PART, "__path__"):
                raise UserError(f"{place} has no key {key!r} beside class_path. {did_you_mean(str(key), OF_A_PART)}")
            if not full:
                self._below(place, kind, [str(key)], inner, False)
            elif key in ("init_args", "dict_kwargs"):
                self._below(place, kind, [key], inner, False)

    def _below(self, place: str, kind: Kind, deeper: Sequence[str], value: Any, typed: bool) -> None:
        """Judge a setting of a part."""
        key, *rest = deeper
        if key == "class_path":
            self._part(place, kind, value)
        elif key not in ("init_args", "dict_kwargs"):
            self._setting(place, kind, key, rest, value, typed)
        elif rest:
            self._below(place, kind, rest, value, typed)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                self._setting(place, kind, str(name), (), inner, False)
        elif value is not None:
            raise UserError(f"{place}.{key} must be a table of settings; found {messages.as_written(value)}.")

    def _setting(self, place: str, kind: Kind, key: str, rest: Sequence[str], value: Any, typed: bool) -> None:
        """Judge a setting of a part by what its class takes."""
        part = self.parts[place][0] if place in self.parts else accepted.default(place, kind, self.whole)
        settings = accepted.part_settings(part) if part else None
        self.given.add(f"{place}.{key}")
        if kind.parts == (part,):  # a table of settings without a class
            self.parts.setdefault(place, (part, kind))
        if part and settings is None and self.certain:
            _check_open(part, key)
        elif part and settings is not None and key not in settings:
            raise UserError(messages.no_setting(part.name, key, [*settings][kind.supplied :]))
        elif settings is not None:
            self.take(f"{place}.{key}", settings[key].kind, rest, value, typed)


def _check_open(part: Declared, key: str) -> None:
    """Refuse a setting of a class that takes any, where it is close to one that the class names.

    Raises:
        UserError: If so.
    """
    known = signatures.named(part)
    sentence = messages.no_setting(part.name, key, known)
    if key not in known and "Did you mean" in sentence:
        raise UserError(sentence)


def _plain(kind: Kind, value: Any, typed: bool) -> bool:
    """Tell whether a value is one of the plain values that a kind takes."""
    if "str" in kind.plain and (typed or isinstance(value, str)):
        return True
    read = value
    if isinstance(value, str):
        try:
            read = shorthand.read_config(value)
        except yaml.YAMLError:
            read = value
    if value in kind.choices or (not isinstance(read, Mapping | list) and read in kind.choices):
        return True
    if isinstance(read, bool):
        return "bool" in kind.plain
    fits = {int: ("int", "float"), float: ("float",), type(None): ("None",)}.get(type(read), ())
    return any(name in kind.plain for name in fits)

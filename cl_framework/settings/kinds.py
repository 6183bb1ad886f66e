"""Which values a setting takes, told from its annotation: plain values, choices, lists, tables and parts.

A part is an object that a config describes by its class and the settings of that class. An annotation that cannot be
told takes anything: the parser of configs has the last word.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from cl_framework.settings import signatures
from cl_framework.settings.signatures import Declared, Parameter

_PLAIN = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
"""Types of plain values, and what messages call them."""
LISTS = {"list", "List", "Sequence", "Iterable", "tuple", "Tuple"}
TABLES = {"dict", "Dict", "Mapping", "MutableMapping"}
_PART_ROOTS = {"cl_framework", "strategies", "scenarios", "pytorch_lightning", "lightning_fabric", "torch", "peft"}
"""Packages whose classes may be parts; others may be read by the parser in a way of their own."""
NOT_WRITTEN = {"Tensor", "timedelta", "device"}
"""Types that no config can write; their alternatives count."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Which values a setting takes: any of the alternatives.

    Attributes:
        plain: Names of types in `_PLAIN`.
        choices: Values that are written in the annotation.
        parts: Interfaces or classes of which it may be an object.
        items: What each item of a list may be, one kind for all or one for each; None if it is no list.
        table: Whether it may be a table of keys and values.
        supplied: How many arguments a part is given by its caller, as an optimiser its parameters.
        anything: Whether the annotation leaves it open.
    """

    plain: tuple[str, ...] = ()
    choices: tuple[Any, ...] = ()
    parts: tuple[Declared, ...] = ()
    items: tuple[Kind, ...] | None = None
    table: bool = False
    supplied: int = 0
    anything: bool = False

    def __or__(self, other: Kind) -> Kind:
        """Return the kind that takes what either takes."""
        return Kind(
            tuple(dict.fromkeys(self.plain + other.plain)),
            tuple(dict.fromkeys(self.choices + other.choices)),
            tuple(dict.fromkeys(self.parts + other.parts)),
            _either(self.items, other.items),
            self.table or other.table,
            max(self.supplied, other.supplied),
            self.anything or other.anything,
        )

    def says(self) -> str:
        """Return the alternatives in words, as they stand after "must be"."""
        words = [_PLAIN[p] for p in _PLAIN if p in self.plain and p != "None"]
        words = [w for w in words if w != _PLAIN["int"] or _PLAIN["float"] not in words]
        words += [str(c) for c in self.choices]
        words += ["a list"] if self.items and len(self.items) == 1 else []
        words += [f"a list of {len(self.items)} values"] if self.items and len(self.items) > 1 else []
        words += ["a table of keys and values"] if self.table else []
        words += ["null"] if "None" in self.plain else []
        return " or ".join(words)


ANYTHING = Kind(anything=True)


@final
@dataclass(frozen=True)
class Setting:
    """A setting of a class or a section.

    Attributes:
        parameter: The parameter that it sets.
    """

    parameter: Parameter

    @property
    def required(self) -> bool:
        """Return whether it has no default."""
        return self.parameter.required

    @cached_property
    def kind(self) -> Kind:
        """Return which values it takes; source files are read when this is asked first."""
        null = Kind(("None",)) if self.parameter.nullable else Kind()
        return kind_of(self.parameter.annotation, self.parameter.module) | null


def _either(some: tuple[Kind, ...] | None, others: tuple[Kind, ...] | None) -> tuple[Kind, ...] | None:
    """Return what the items of a list may be where two kinds of lists are taken."""
    if some is None or others is None or some == others:
        return others if some is None else some
    return (ANYTHING,)


def settings(parameters: dict[str, Parameter]) -> dict[str, Setting]:
    """Return the settings that parameters amount to."""
    return {name: Setting(parameter) for name, parameter in parameters.items()}


def kind_of(annotation: ast.expr | None, module: str) -> Kind:
    """Return the kind of an annotation in a module.

    >>> kind = kind_of(ast.parse("tuple[float, float] | list[str] | None", mode="eval").body, "builtins")
    >>> kind.says(), kind.anything
    ('a list or null', False)
    """
    match annotation:
        case ast.Constant(value=None):
            return Kind(("None",))
        case ast.Constant(value=str() as text):
            return kind_of(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return kind_of(left, module) | kind_of(right, module)
        case ast.Subscript(value=head, slice=inside):
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return _subscripted(ast.unparse(head).rpartition(".")[2], parts, module)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _named(name, annotation, module)
    return ANYTHING


def _subscripted(head: str, inside: Sequence[ast.expr], module: str) -> Kind:
    """Return the kind of ``head[inside]``."""
    if head in ("Union", "Optional"):
        whole = Kind(("None",)) if head == "Optional" else Kind()
        for each in inside:
            whole |= kind_of(each, module)
        return whole
    if head == "Literal":
        return Kind(choices=tuple(c.value for c in inside if isinstance(c, ast.Constant)))
    if head in ("Annotated", "Final"):
        return kind_of(inside[0], module)
    if head in LISTS:
        kinds = tuple(kind_of(each, module) for each in inside if ast.unparse(each) != "...")
        return Kind(items=kinds)
    if head in TABLES:
        return Kind(table=True)
    if head == "Callable" and len(inside) == 2 and isinstance(inside[0], ast.List):
        kind = kind_of(inside[1], module)
        return Kind(parts=kind.parts, supplied=len(inside[0].elts)) if kind.parts else ANYTHING
    return ANYTHING


def _named(name: str, node: ast.expr, module: str) -> Kind:
    """Return the kind of a type by its name."""
    if name in _PLAIN:
        return Kind((name,))
    if name in LISTS:
        return Kind(items=(ANYTHING,))
    if name in TABLES:
        return Kind(table=True)
    if name in NOT_WRITTEN:
        return Kind()
    declared = signatures.find_declared(module, name) if isinstance(node, ast.Name) else None
    if declared is None:
        return ANYTHING
    if isinstance(declared.node, ast.ClassDef):
        above = {base.rpartition(".")[2] for base in signatures.bases(declared)}
        known = declared.module.partition(".")[0] in _PART_ROOTS and not {"Enum", "StrEnum", "IntEnum", "str"} & above
        return Kind(parts=(declared,)) if known else ANYTHING
    return kind_of(declared.node, declared.module) if isinstance(declared.node, ast.expr) else ANYTHING

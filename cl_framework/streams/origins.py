"""Origins of state as cells: an experience and one of its classes. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TypeAlias

Cell: TypeAlias = tuple[str, int]
"""An experience and one of its classes: the unit that is learned and forgotten."""

Origin: TypeAlias = tuple[Cell, ...]
"""The cells whose samples went into something, each once, in the order in which they were met."""


def merge_origins(*origins: Iterable[Cell]) -> Origin:
    """Return the union of several origins.

    >>> merge_origins([("a", 1)], [("a", 2), ("a", 1), ("b", 3)])
    (('a', 1), ('a', 2), ('b', 3))
    """
    return tuple(dict.fromkeys(chain.from_iterable(origins)))


def cells_of(brought: Mapping[str, Iterable[int]]) -> Origin:
    """Return the cells of experiences, given the classes of each.

    >>> cells_of({"a": [5], "b": [5, 7]})
    (('a', 5), ('b', 5), ('b', 7))
    """
    return tuple((experience, c) for experience, classes in brought.items() for c in classes)


def to_json(origin: Origin) -> dict[str, list[int]]:
    """Return an origin as JSON values: sorted classes by experience.

    >>> to_json((("b", 7), ("a", 5), ("b", 5)))
    {'b': [5, 7], 'a': [5]}
    """
    classes: dict[str, list[int]] = {}
    for experience, c in origin:
        classes.setdefault(experience, []).append(c)
    return {experience: sorted(some) for experience, some in classes.items()}

"""Origins of state as cells: an experience and one of its classes. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Origin: TypeAlias = Mapping[str, frozenset[int]]
"""Experience -> ids of its classes."""


Cell: TypeAlias = tuple[str, int]
"""An experience and one of its classes: the unit that is learned and forgotten."""


def merge_origins(*origins: Origin) -> dict[str, frozenset[int]]:
    """Return the union of several origins.

    >>> merge_origins({"a": frozenset({1})}, {"a": frozenset({2}), "b": frozenset({3})}) == {
    ...     "a": frozenset({1, 2}), "b": frozenset({3})}
    True
    """
    union: dict[str, frozenset[int]] = {}
    for origin in origins:
        for experience, classes in origin.items():
            union[experience] = union.get(experience, frozenset()) | classes
    return union


def origin_of(cells: Iterable[Cell]) -> dict[str, frozenset[int]]:
    """Return the origin of samples of ``cells_of``.

    >>> origin_of([("a", 5), ("b", 7), ("b", 5)]) == {"a": frozenset({5}), "b": frozenset({5, 7})}
    True
    """
    return merge_origins(*({experience: frozenset({c})} for experience, c in cells))


def cells_of(brought: Mapping[str, Iterable[int]]) -> list[Cell]:
    """Return the cells of an origin; the inverse of `origin_of`.

    >>> cells_of({"a": [5], "b": [5, 7]})
    [('a', 5), ('b', 5), ('b', 7)]
    """
    return [(experience, c) for experience, classes in brought.items() for c in classes]


def to_json(origin: Origin) -> dict[str, list[int]]:
    """Return an origin as JSON values."""
    return {experience: sorted(classes) for experience, classes in origin.items()}


def from_json(value: Mapping[str, Iterable[int]]) -> dict[str, frozenset[int]]:
    """Return the origin that `to_json` was given."""
    return {experience: frozenset(classes) for experience, classes in value.items()}

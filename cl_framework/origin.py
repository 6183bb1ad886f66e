"""Where something comes from: the classes of each experience whose samples went into it. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, final

Origin: TypeAlias = Mapping[str, frozenset[int]]
"""Experience -> ids of its classes."""

Cell: TypeAlias = tuple[str, int]
"""An experience and one of its classes: what comes, and what goes, as one."""


@final
@dataclass(frozen=True, slots=True)
class Ingredient:
    """What went into something, so that the stream can tell which samples that were.

    They are all samples of its classes that are alive, for a request that takes samples makes anew whatever met them
    or takes them out. Two things differ from that and are written down.

    Attributes:
        origin: Experience -> classes.
        outlived: Requests whose samples it met and holds on to, because it was edited or left as it was.
        parts: The samples read of a class of an experience, where only some were.
    """

    origin: Origin
    outlived: tuple[str, ...] = ()
    parts: Mapping[Cell, frozenset[int]] = field(default_factory=dict)


def merged(*origins: Origin) -> dict[str, frozenset[int]]:
    """Return what went into something made of several.

    >>> merged({"a": frozenset({1})}, {"a": frozenset({2}), "b": frozenset({3})}) == {
    ...     "a": frozenset({1, 2}), "b": frozenset({3})}
    True
    """
    found: dict[str, frozenset[int]] = {}
    for origin in origins:
        for experience, classes in origin.items():
            found[experience] = found.get(experience, frozenset()) | classes
    return found


def of(cells: Iterable[Cell]) -> dict[str, frozenset[int]]:
    """Return the origin that samples of ``cells`` make.

    >>> of([("a", 5), ("b", 7), ("b", 5)]) == {"a": frozenset({5}), "b": frozenset({5, 7})}
    True
    """
    return merged(*({experience: frozenset({c})} for experience, c in cells))


def cells(brought: Mapping[str, Iterable[int]]) -> list[Cell]:
    """Undo `of`.

    >>> cells({"a": [5], "b": [5, 7]})
    [('a', 5), ('b', 5), ('b', 7)]
    """
    return [(experience, c) for experience, classes in brought.items() for c in classes]


def to_json(origin: Origin) -> dict[str, list[int]]:
    """Return what JSON can hold."""
    return {experience: sorted(classes) for experience, classes in origin.items()}


def from_json(told: Mapping[str, Iterable[int]]) -> dict[str, frozenset[int]]:
    """Undo `to_json`."""
    return {experience: frozenset(classes) for experience, classes in told.items()}

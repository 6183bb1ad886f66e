"""Classes that lose a cell and live on, because other experiences brought more of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from cl_framework.terminal.safe_text import printable

Stays: TypeAlias = Mapping[int, Sequence[str]]
"""Class -> the experiences that keep samples of it."""


def staying_sentence(stays: Stays, called: Callable[[int], str] = str, most: int = 6) -> str:
    """Return which classes stay, and through which experiences; empty where there is none.

    >>> staying_sentence({5: ["domain-1"], 7: ["domain-1"], 2: ["domain-1", "domain-2"]})
    'classes 5, 7 stay through domain-1; class 2 stays through domain-1, domain-2'

    Args:
        stays: The classes.
        called: Returns the name of a class.
        most: Most classes or experiences to name at once.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for c, experiences in stays.items():
        alike.setdefault(tuple(experiences), []).append(c)
    return "; ".join(
        f"class{'' if len(classes) == 1 else 'es'} {_few([called(c) for c in classes], most)} "
        f"stay{'s' if len(classes) == 1 else ''} through {_few(experiences, most)}"
        for experiences, classes in alike.items()
    )


def _few(words: Sequence[str], most: int) -> str:
    return ", ".join(map(printable, words[:most])) + (" ..." if len(words) > most else "")

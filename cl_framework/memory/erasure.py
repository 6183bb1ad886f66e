"""What to erase: one description for every part that files state by class, experience or sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from cl_framework.streams.origins import Cell


@dataclass(frozen=True, slots=True)
class Erasure:
    """The classes, experiences and sample ids to erase.

    Attributes:
        classes: Classes to erase altogether.
        experiences: Experiences whose own state must be erased.
        ids: Samples to erase.
        cells: Cells to erase: a class of an experience; another experience may keep the class.
        everything: True to return each part to its first state, shared ones too.
    """

    classes: frozenset[int] = frozenset()
    experiences: frozenset[str] = frozenset()
    ids: frozenset[int] = frozenset()
    everything: bool = False
    cells: frozenset[Cell] = frozenset()

    def hits(self, cls: int | None = None, experience: str | None = None) -> bool:
        """Tell whether something filed under ``cls`` and ``experience`` is to be erased.

        >>> Erasure(classes=frozenset({3})).hits(cls=3, experience="task-0")
        True
        >>> Erasure(classes=frozenset({3})).hits(experience="task-0")
        False
        >>> Erasure(cells=frozenset({("task-0", 3)})).hits(cls=3, experience="task-1")
        False
        """
        whole = self.everything or cls in self.classes or experience in self.experiences
        return whole or (experience, cls) in self.cells


@runtime_checkable
class Erasable(Protocol):
    """A part that can erase what it stores."""

    def erase(self, erasure: Erasure) -> None:
        """Remove every trace of ``erasure``."""


def erase(erasure: Erasure, *holders: nn.Module) -> None:
    """Erase from every part of every holder."""
    for part in [m for holder in holders for m in holder.modules()]:
        if isinstance(part, Erasable):
            part.erase(erasure)

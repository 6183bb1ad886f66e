"""Comparison of a run's sample list with today's data: new, missing and changed samples. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

_SHOWN = 5
"""Most samples that are named; further ones are counted."""


@final
@dataclass(frozen=True, slots=True)
class Inventory:
    """Differences between a run's sample list and today's data.

    Attributes:
        new: Places of samples that the list does not know.
        lost: Places of samples that were met and are missing.
        left_out: Places of samples that are missing and were never met.
        renewed: Places of samples that changed and were never met.
    """

    new: Sequence[str] = ()
    lost: Sequence[str] = ()
    left_out: Sequence[str] = ()
    renewed: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Return a sentence for each kind of difference.

        >>> Inventory(new=["cat/9.png"]).lines()
        ['1 sample is new and left out, for a run keeps to its list (`clf learn` takes more in): cat/9.png']
        """
        differences = (
            (self.new, "new and left out, for a run keeps to its list (`clf learn` takes more in)"),
            (self.left_out, "gone and never learned: left out"),
            (self.renewed, "changed and never learned: taken as now"),
            (self.lost, "gone, and learned before: not read again"),
        )
        return [f"{_count(places)} {kind}: {_shown(places)}" for places, kind in differences if places]


def _count(places: Sequence[str]) -> str:
    return "1 sample is" if len(places) == 1 else f"{len(places):,} samples are"


def _shown(places: Sequence[str]) -> str:
    return ", ".join(places[:_SHOWN]) + (", ..." if len(places) > _SHOWN else "")

"""Index of samples by cell, and of the samples that each forget request took."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

from cl_framework.memory.provenance import TrainedOn
from cl_framework.streams.events import Event, Experience
from cl_framework.streams.origins import Cell
from cl_framework.streams.samples import Samples

Contents: TypeAlias = Mapping[Cell, frozenset[int]]
"""Sample ids by cell."""


@final
@dataclass(frozen=True, slots=True)
class SampleIndex:
    """The samples of a stream up to one of its events.

    Attributes:
        alive: The samples that are left.
        taken: Forget request -> the samples that it took.
    """

    alive: Contents = field(default_factory=dict)
    taken: Mapping[str, Contents] = field(default_factory=dict)

    @property
    def ever(self) -> dict[Cell, frozenset[int]]:
        """All samples, past and present."""
        return pooled([self.alive, *self.taken.values()])

    def among(self, ids: frozenset[int]) -> dict[Cell, frozenset[int]]:
        """Return the cells of the samples ``ids``, forgotten ones too."""
        return {cell: some for cell, present in self.ever.items() if (some := present & ids)}

    def resolved(self, ingredients: Iterable[TrainedOn]) -> dict[Cell, frozenset[int]]:
        """Return the samples in what is made of ``ingredients``.

        State that met a class holds every live sample of it, unless it read some only, and the samples of requests that
        it outlived.
        """
        return pooled(self._resolved(i) for i in ingredients)

    def _resolved(self, ingredient: TrainedOn) -> Contents:
        cells = {}
        for cell in ingredient.origin:
            alive, part = self.alive.get(cell, frozenset()), ingredient.parts.get(cell)
            stayed = [self.taken[r].get(cell, frozenset()) for r in ingredient.outlived if r in self.taken]
            cells[cell] = (alive if part is None else alive & part).union(*stayed)
        return cells


def indexes_of(events: Iterable[Event]) -> Iterator[SampleIndex]:
    """Yield the index after each event of a stream."""
    alive: dict[Cell, frozenset[int]] = {}
    taken: dict[str, Contents] = {}
    for event in events:
        if isinstance(event, Experience):
            alive = alive | samples_by_class(event.name, event.data, event.classes)
        else:
            gone = event.taken
            taken = taken | {event.name: gone}
            alive = {cell: stay for cell, ids in alive.items() if (stay := ids - gone.get(cell, frozenset()))}
        yield SampleIndex(alive, taken)


def index_of(events: Sequence[Event]) -> SampleIndex:
    """Return the census after the last event of a stream."""
    return deque(indexes_of(events), maxlen=1).pop() if events else SampleIndex()


def samples_by_class(experience: str, samples: Samples, classes: Iterable[int]) -> dict[Cell, frozenset[int]]:
    """Return the ids of an experience's samples, class by class.

    >>> import torch
    >>> from cl_framework.streams import Rows
    >>> data = Rows(torch.zeros(3, 1), torch.tensor([4, 7, 4]), torch.tensor([10, 11, 12]))
    >>> samples_by_class("a", data, [4, 7]) == {("a", 4): frozenset({10, 12}), ("a", 7): frozenset({11})}
    True
    """
    return {(experience, c): frozenset(samples.ids[samples.labels == c].tolist()) for c in classes}


def pooled(parts: Iterable[Contents]) -> dict[Cell, frozenset[int]]:
    """Return what is in any of ``parts``, without empty cells."""
    union: dict[Cell, frozenset[int]] = {}
    for part in parts:
        for cell, ids in part.items():
            if ids:
                union[cell] = union[cell] | ids if cell in union else ids
    return union


def ids_of(contents: Contents) -> frozenset[int]:
    """Return all samples of all cells."""
    return frozenset[int]().union(*contents.values())

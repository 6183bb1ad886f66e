"""Provenance: the classes of each experience whose samples state was trained on. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, final

import torch
from torch import Tensor, nn

from cl_framework.memory.erasure import Erasure
from cl_framework.memory.tensor_store import Key, TensorStore
from cl_framework.streams.origins import Cell, Origin


@final
@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What state was trained on, so that the stream can name the samples.

    By default all live samples of its classes: a forget request trains again or subtracts whatever met its samples. Two
    exceptions are recorded.

    Attributes:
        origin: Cells.
        outlived: Requests whose samples it met and still depends on, because it was edited or left unchanged.
        parts: The samples read of a class of an experience, where only some were.
    """

    origin: Origin
    outlived: tuple[str, ...] = ()
    parts: Mapping[Cell, frozenset[int]] = field(default_factory=dict)


Read: TypeAlias = Mapping[Cell, frozenset[int] | None]
"""What was trained on: of each class of an experience the samples read, None for all of them."""


@final
class ReadSamples(nn.Module):
    """Sample ids by owner, class and experience; of a class that is not listed an owner read all.

    Ids are tensors, like those of a memory: a forget request erases them from the files too. That an adapter which is
    only edited still depends on them is recorded by the request's name (`Model.outlived`), not by their ids.
    """

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.ids = TensorStore()

    def note(self, owner: str, read: Read, had: Origin) -> None:
        """Note that ``owner`` was trained on ``read``; it was trained on ``had`` before."""
        for (experience, c), some in read.items():
            entry = Key(c, experience, owner)
            if some is None:
                if entry in self.ids:
                    del self.ids[entry]
            elif (experience, c) not in had or entry in self.ids:
                before = self.ids[entry].tolist() if entry in self.ids else []
                self.ids[entry] = torch.tensor(sorted({*before, *some}), dtype=torch.int64)

    def of(self, owner: str) -> dict[Cell, frozenset[int]]:
        """Return the samples that ``owner`` read of each class of an experience of which it read some only."""
        return {
            (e.experience or "?", e.cls): frozenset(self.ids[e].tolist())
            for e in self.ids
            if e.name == owner and e.cls is not None
        }

    def drop(self, owner: str) -> None:
        """Delete what ``owner`` read."""
        for entry in [e for e in self.ids if e.name == owner]:
            del self.ids[entry]

    def erase(self, erasure: Erasure) -> None:
        """Delete erased samples; an entry that loses all of them stays: it says that no other was read."""
        gone = torch.tensor(sorted(erasure.ids), dtype=torch.int64)
        for entry in list(self.ids):
            kept: Tensor = self.ids[entry]
            stay = ~torch.isin(kept, gone.to(kept.device))
            if not bool(stay.all()):
                self.ids[entry] = kept[stay]


def met(
    classes: Iterable[int],
    read: Collection[tuple[int, int]],
    alive: Mapping[Cell, frozenset[int]],
    known: Collection[Cell],
    gone: Mapping[Cell, frozenset[int]],
) -> dict[Cell, frozenset[int] | None]:
    """Return what was trained on, experience by experience and class by class.

    Samples that are not alive, such as generated ones, count as all that is known of their class: their source met it.
    Samples that a forget request erases are not counted, but their class was met.

    >>> alive = {("a", 4): frozenset({0, 1}), ("b", 4): frozenset({2}), ("a", 7): frozenset({5})}
    >>> met([4, 7], [(4, 0), (7, 5)], alive, alive, {})
    {('a', 4): frozenset({0}), ('a', 7): None}

    Args:
        classes: Those that were trained on.
        read: Class and id of each sample that was read.
        alive: The samples there are, as far as that is known.
        known: What the learner knows.
        gone: The samples that a forget request erases.
    """
    every, lost, cells = {i for _, i in read}, frozenset[int]().union(*gone.values()), set(known)
    by_class, places = defaultdict[int, set[int]](set), defaultdict[int, list[Cell]](list)
    for y, i in read:
        by_class[y].add(i)
    for cell in dict.fromkeys((*known, *alive, *gone)):
        places[cell[1]].append(cell)
    trained_on: dict[Cell, frozenset[int] | None] = {}
    for c in classes:
        mine, ids = places.get(c, [("?", c)]), frozenset(by_class[c] - lost)
        present = {cell: alive.get(cell, frozenset()) for cell in mine}
        took = {cell for cell in mine if every & gone.get(cell, frozenset())}
        strange = bool(ids.difference(*present.values()))
        vague = {cell for cell in mine if cell in cells or cell[0] == "?"} if strange or not (ids or took) else set()
        for cell in mine:
            some = ids & present[cell]
            if some or cell in took or cell in vague:
                trained_on[cell] = None if strange or some == present[cell] else some
    return trained_on

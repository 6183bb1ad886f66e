"""Which samples something was trained on, where it was trained on some samples of a class and not on all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.erasure import Erasure
from cl_framework.ledger import Entry, Ledger
from cl_framework.stream import Samples


@final
class Reading(nn.Module):
    """Sample ids by owner, class and experience; of a class that is not filed an owner read all.

    Ids are tensors, like those of a memory: a forget request takes them out of the files with everything else. That an
    adapter which is only edited still holds them is told by the request's name (`Model.outlived`), not by their ids.
    """

    def __init__(self) -> None:
        """Start with nothing filed."""
        super().__init__()
        self.ids = Ledger()

    def note(
        self,
        owner: str,
        classes: Iterable[int],
        had: Collection[int],
        known: Mapping[int, str],
        some: Mapping[int, frozenset[int]],
    ) -> None:
        """Note that ``owner`` was trained on ``classes``.

        Args:
            owner: Whose reading it is.
            classes: The classes.
            had: Those it was trained on before.
            known: The experience of each class.
            some: The samples read of each class of which not all were.
        """
        for c in classes:
            entry = Entry(c, known.get(c), owner)
            if c not in some:
                if entry in self.ids:
                    del self.ids[entry]
            elif c not in had or entry in self.ids:
                before = self.ids[entry].tolist() if entry in self.ids else []
                self.ids[entry] = torch.tensor(sorted({*before, *some[c]}), dtype=torch.int64)

    def of(self, owner: str) -> dict[int, frozenset[int]]:
        """Return the samples that ``owner`` read of each class of which it read some only."""
        mine = [e for e in self.ids if e.name == owner and e.cls is not None]
        return {e.cls: frozenset(self.ids[e].tolist()) for e in mine if e.cls is not None}

    def drop(self, owner: str) -> None:
        """Let go of what ``owner`` read."""
        for entry in [e for e in self.ids if e.name == owner]:
            del self.ids[entry]

    def erase(self, what: Erasure) -> None:
        """Let go of erased samples; an entry that loses all of them stays, for it says that no other was read."""
        gone = torch.tensor(sorted(what.ids), dtype=torch.int64)
        for entry in list(self.ids):
            kept: Tensor = self.ids[entry]
            stay = ~torch.isin(kept, gone.to(kept.device))
            if not bool(stay.all()):
                self.ids[entry] = kept[stay]


def partly(
    read: Mapping[int, frozenset[int]], there: Iterable[Samples], gone: frozenset[int] = frozenset()
) -> dict[int, frozenset[int]]:
    """Return the samples read of each class of which some were read and not all.

    Made-up samples have ids below zero. They stand for their whole class: what they were made from met it.

    >>> from cl_framework.stream import Rows
    >>> data = Rows(torch.zeros(4, 1), torch.tensor([4, 4, 7, 7]), torch.arange(4))
    >>> partly({4: frozenset({0}), 7: frozenset({2, 3})}, [data])
    {4: frozenset({0})}

    Args:
        read: The samples read of each class.
        there: All samples there are.
        gone: Samples that a forget request takes: they count neither way.
    """
    parts = list(there)
    found = {}
    for c, all_read in read.items():
        alive = frozenset(i for s in parts for i in s.ids[s.labels == c].tolist()) - gone
        ids = all_read - gone
        if ids < alive:
            found[c] = ids
    return found

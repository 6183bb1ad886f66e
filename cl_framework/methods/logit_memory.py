"""Stored logits of exemplars: rows are erased with samples, columns with classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.memory.erasure import Erasure
from cl_framework.memory.exemplars import Memory
from cl_framework.memory.tensor_store import Key, TensorStore
from cl_framework.models.model import Model, Using
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Subset

SCORES, COLUMNS = "scores", "columns"


@final
class Answers(nn.Module):
    """Exemplars, each with the head's scores at the time it was stored.

    Attributes:
        memory: The samples.
        filed: By class and experience, in the memory's order: scores ``(n, k)``, and the ``k`` classes they are of.
    """

    def __init__(self, per_class: int | None = None) -> None:
        """Start empty."""
        super().__init__()
        self.memory, self.filed = Memory(per_class), TensorStore()

    def keep(self, model: Model, event: Experience, using: Using) -> None:
        """Store exemplars of each class, and the model's scores of them under the test transform."""
        self.memory.keep(event)
        for c in event.classes:
            ids = self.memory.ids[Key(c, event.name)].cpu()
            rows = (ids[:, None] == event.reference.ids).int().argmax(1)
            z, _ = model.embed(Subset(event.reference, rows), using)
            self.filed[Key(c, event.name, SCORES)] = model.head(z)
            self.filed[Key(c, event.name, COLUMNS)] = model.head.get_buffer("rows")

    def table(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return sample ids ``(n,)`` and scores ``(n, classes)``, NaN for classes that were not known yet."""
        wanted, parts = torch.tensor(classes), []
        for entry in (e for e in self.filed if e.name == SCORES):
            scores, columns = self.filed[entry], self.filed[entry._replace(name=COLUMNS)]
            row, at = (columns[:, None] == wanted.to(columns.device)).nonzero(as_tuple=True)
            spread = scores.new_full((len(scores), len(classes)), torch.nan)
            spread[:, at] = scores[:, row]
            parts.append((self.memory.ids[entry._replace(name="")].to(scores.device), spread))
        ids, rows = zip(*parts, strict=True) if parts else ((), ())
        return (torch.cat(ids), torch.cat(rows)) if parts else (wanted.new_empty(0), torch.empty(0, len(classes)))

    def sides(self, entry: Key) -> tuple[frozenset[int], frozenset[int]]:
        """Return the samples that an entry of `filed` has rows of, and the classes that it has columns of."""
        ids, columns = self.memory.ids[entry._replace(name="")], self.filed[entry._replace(name=COLUMNS)]
        return frozenset(ids.tolist()), frozenset(columns.tolist())

    def erase(self, erasure: Erasure) -> None:
        """Delete rows and columns; the exemplar memory, a part of this one, is erased later."""
        gone, classes = (torch.tensor(sorted(s), dtype=torch.int64) for s in (erasure.ids, erasure.classes))
        for entry in [e for e in self.filed if e.name == SCORES and not erasure.hits(e.cls, e.experience)]:
            beside, ids = entry._replace(name=COLUMNS), self.memory.ids[entry._replace(name="")]
            rows, columns = (~torch.isin(x, y.to(x.device)) for x, y in ((ids, gone), (self.filed[beside], classes)))
            self.filed[entry] = self.filed[entry][rows][:, columns]
            self.filed[beside] = self.filed[beside][columns]
            if not bool(rows.any()):
                del self.filed[entry], self.filed[beside]

"""Exemplar memory: ids of samples, filed by experience and class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.errors import UserError
from cl_framework.memory.erasure import Erasure
from cl_framework.memory.tensor_store import Key, TensorStore
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Joined, Samples


@final
class Memory(nn.Module):
    """Exemplars of each class of each experience; each can be erased.

    What is stored is ids. The samples themselves stay in the data source, which ``attach`` brings back after a resume.

    Args:
        per_class: Number of exemplars of each class; None keeps all samples.
    """

    def __init__(self, per_class: int | None = None) -> None:
        """Start empty."""
        super().__init__()
        self.per_class = per_class
        self.ids = TensorStore()
        self._source: dict[str, Samples] = {}

    def __bool__(self) -> bool:
        """Tell whether there are exemplars."""
        return len(self.ids) > 0

    def keep(self, event: Experience) -> None:
        """Store exemplars of each class, drawn at random unless all are kept."""
        self._source[event.name] = event.data
        for c in event.classes:
            ids = event.data.ids[event.data.labels == c]
            some = ids if self.per_class is None else ids[torch.randperm(len(ids))[: self.per_class]].sort().values
            self.ids[Key(c, event.name)] = some

    @property
    def sources(self) -> Mapping[str, Samples]:
        """All samples of the experiences that exemplars may come from, by name."""
        return self._source

    def attach(self, past: Iterable[Experience]) -> None:
        """Attach the data of past experiences after a resume."""
        self._source = {e.name: e.data for e in past}

    def all(self) -> Samples:
        """Return all exemplars, in order of arrival."""
        return Joined(self._parts())

    def erase(self, erasure: Erasure) -> None:
        """Forget erased samples; classes and experiences are let go of by the tensor store itself."""
        gone = torch.tensor(sorted(erasure.ids), dtype=torch.int64)
        for entry in list(self.ids):
            kept: Tensor = self.ids[entry]
            stay = ~torch.isin(kept.cpu(), gone)
            if not bool(stay.any()):
                del self.ids[entry]
            elif not bool(stay.all()):
                self.ids[entry] = kept[stay.to(kept.device)]

    def _parts(self) -> list[Samples]:
        wanted: dict[str, list[Tensor]] = {}
        for entry in self.ids:
            wanted.setdefault(str(entry.experience), []).append(self.ids[entry].cpu())
        if missing := set(wanted) - set(self._source):
            raise UserError(f"The samples of {sorted(missing)} are remembered by id but their data are not here.")
        return [
            self._source[name].where(torch.isin(self._source[name].ids, torch.cat(ids))) for name, ids in wanted.items()
        ]

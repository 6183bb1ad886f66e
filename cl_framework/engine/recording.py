"""Recording of provenance: the samples that trained state has met, recorded around the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import nn

from cl_framework.engine.learner import Learner
from cl_framework.engine.sample_index import Contents, pooled, samples_by_class
from cl_framework.engine.treatments import outlived, treatments
from cl_framework.memory.exemplars import Memory
from cl_framework.memory.provenance import Read, ReadSamples, met
from cl_framework.methods.base import Plan
from cl_framework.methods.compatibility import check_request
from cl_framework.models.model import Model
from cl_framework.streams import origins
from cl_framework.streams.events import Event, Experience, ForgetRequest
from cl_framework.streams.origins import Origin
from cl_framework.streams.samples import Batch, Samples


@contextmanager
def recorded(learner: Learner, event: Event) -> Iterator[Recording]:
    """Record what the plans of ``event`` read; after a request, also which artifacts still depend on forgotten samples.

    Args:
        learner: In the state before the event.
        event: What is about to be carried out, within the block.

    Yields:
        A recorder that passes the plans on and notes their samples.

    Raises:
        UserError: If the unlearner must refuse the request.
    """
    recording = Recording(learner, event)
    if isinstance(event, Experience):
        yield recording
        return
    unlearner = check_request(learner.model, learner.strategy, learner.unlearner, event)
    planned = treatments(learner, event, unlearner)
    yield recording
    learner.model.outlived = outlived(learner, event, planned, recording.ids)


@final
class Recording:
    """Samples that the plans of one event read.

    Attributes:
        ids: The samples that were trained on.
    """

    def __init__(self, learner: Learner, event: Event) -> None:
        """Start empty."""
        self.learner, self.event, self.ids = learner, event, set[int]()

    def of(self, plans: Iterable[Plan]) -> Iterator[tuple[Plan, Samples]]:
        """Yield each plan with its samples, which are noted when read; what it trained has met them afterwards."""
        model = self.learner.model
        for plan in plans:
            noted = set[tuple[int, int]]()
            yield plan, _Noted(plan.data, noted)
            against = {cell: None for cell in origins.cells_of(model.brought) if cell[1] in plan.against}
            _trace(model, plan.parameters(), {**_met(self.learner, self.event, plan.data.classes(), noted), **against})
            self.ids |= {i for _, i in noted}

    def counts(self) -> dict[str, int]:
        """Return the numbers of samples a request trained on, of the forget set and of the retain set.

        Generated samples are in neither.
        """
        if isinstance(self.event, Experience):
            return {}
        stay = {i for e in self.event.remaining for i in e.data.ids.tolist()}
        return {"forget": len(self.ids & set(self.event.data.ids.tolist())), "retain": len(self.ids & stay)}


@final
class _Noted(Samples):
    """The same samples; those that are read are noted by class and id."""

    def __init__(self, whole: Samples, read: set[tuple[int, int]]) -> None:
        self.whole, self.read = whole, read
        self.labels, self.ids, self.key = whole.labels, whole.ids, whole.key

    def on(self, device: torch.device) -> Samples:
        return _Noted(self.whole.on(device), self.read)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        batch = self.whole[rows]
        self.read.update(zip(batch.y.tolist(), batch.ids.tolist(), strict=True))
        return batch


def _met(learner: Learner, event: Event, classes: Sequence[int], read: set[tuple[int, int]]) -> Read:
    """Return the samples that a plan read by cell, None for all live ones."""
    gone: Contents = {}
    if isinstance(event, ForgetRequest):
        gone, sources = event.taken, {e.name: e.data for e in event.remaining}
    else:
        memories = [m for m in learner.strategy.modules() if isinstance(m, Memory)]
        sources = {name: data for m in memories for name, data in m.sources.items()} | {event.name: event.data}
    alive = pooled(samples_by_class(name, data, classes) for name, data in sources.items())
    return met(classes, read, alive, origins.cells_of(learner.model.brought), gone)


def _trace(model: Model, params: Iterable[nn.Parameter], read: Read) -> None:
    """Note that whatever holds ``params``, adapters and the head, was trained on ``read``."""
    trained = {id(p) for p in params}

    def note(reading: ReadSamples, owner: str, before: Origin) -> Origin:
        reading.note(owner, read, before)
        return origins.merge_origins(before, read)

    bank, head = model.adapters, model.head
    for name in bank:
        if any(id(p) in trained for p in bank.params(name)):
            bank.origins[name] = note(bank.reading, name, bank.origins.get(name, ()))
    if any(id(p) in trained for p in head.parameters()):
        head.origin = note(head.reading, "", head.origin)

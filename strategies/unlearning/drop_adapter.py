"""Forget exactly: delete all state that depends on the forget set, and train the shared part of it again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from cl_framework.memory import Erasure, erase
from cl_framework.methods import Plan, Strategy, Unlearner, lesson
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class DropAdapter(Unlearner):
    """Deletes all state that met the forget set; choose it with strategies that keep state apart. Exact.

    Exact removal for strategies that isolate experiences or classes: the result never met the forget set.

    Whole experiences need no data: their adapters, prototypes and rows are deleted. When part of an experience goes,
    its adapter is trained again from the rest with the same seed, and the statistics of later classes in that adapter's
    space are measured again; this needs the training data of what remains. So does a request that touches the first
    experience, where a strategy trains on that one only and all else depends on it: everything is learned again.
    """

    exact, acts = True, "drop"

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse where state is shared: deleting could not separate what one class or experience put into it."""
        if event.inherited:
            return "the backbone itself was pre-trained on it; nothing here can make it never have seen it"
        name = type(strategy).__name__
        if strategy.subtracts:
            return f"{name} sums up all samples together, and nothing can be dropped out of a sum"
        if strategy.isolates is None:
            return f"{name} shares its trained state among experiences, so nothing can be dropped exactly"
        if "retain" in event.missing and strategy.rereads(event):
            return "part of what was learned together stays and is learned again from its samples, which cannot be had"
        return None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Delete, then compute again what is missing."""
        filed_once = frozenset[int]() if strategy.repeats else frozenset(event.data.labels.tolist())
        apart = strategy.isolates == "experience" or strategy.loses_first_experience(event)
        shared = frozenset(event.experiences) if apart else frozenset()
        ids = frozenset(event.data.ids.tolist())
        erasure = Erasure(frozenset(event.classes) | filed_once, shared, ids, cells=frozenset(event.taken))
        erase(erasure, model.adapters, model.head, strategy)
        model.retain(event.remaining)
        for experience in event.remaining:
            yield from lesson(model, strategy, experience)

"""Forget by training again from the start: the reference for every other unlearner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from cl_framework.memory import Erasure, erase
from cl_framework.methods import Plan, Strategy, Unlearner, lesson
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class Retrain(Unlearner):
    """Learns the remaining samples again from the start; choose it as the reference, at full cost. Exact.

    Erase everything and learn the remaining experiences again, in order, with their own seeds and full budget.

    Exact for every strategy, and as expensive as the stream so far. Needs the training data of all that remains.
    """

    exact, acts = True, "retrain"
    needs = frozenset({"retain"})

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse where the backbone would have to be trained again."""
        seen = "the backbone itself was pre-trained on it; nothing here can make it never have seen it"
        return seen if event.inherited else None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Return to the initial state and learn the retain set."""
        erase(Erasure(everything=True), model, strategy)
        for experience in event.remaining:
            yield from lesson(model, strategy, experience)

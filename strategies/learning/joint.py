"""Train on everything so far: the upper bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.memory import Memory
from cl_framework.methods import Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class Joint(Strategy):
    """Keeps all data and trains on everything after each experience; choose it as the upper bound.

    Keep all data and train the shared adapter and head on all of them after every experience.
    """

    repeats = True

    def __init__(self) -> None:
        """Start with no data."""
        super().__init__()
        self.memory = Memory()

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Iterate over everything."""
        self.memory.keep(event)
        yield Plan(self.memory.all(), model.ready("shared", event.classes))

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and head."""
        return model.scores(x, "shared")

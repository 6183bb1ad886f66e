"""Train one shared adapter and head on each experience in turn: the lower bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.methods import Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class Finetune(Strategy):
    """Trains one shared adapter with no protection against forgetting; choose it as the lower bound.

    Sequential training of the shared adapter and head, with no measure against forgetting.
    """

    repeats = True

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train the shared adapter and head."""
        yield Plan(event.data, model.ready("shared", event.classes))

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and head."""
        return model.scores(x, "shared")

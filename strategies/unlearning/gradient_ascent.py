"""Gradient ascent: raise the loss on the forget set only.

Golatkar et al., "Eternal sunshine of the spotless net", CVPR 2020, Sec. 6 (the baseline "negative gradient").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import Plan, Strategy, Unlearner, adamw, columns, editable, remove_forgotten
from cl_framework.models import Model
from cl_framework.streams import Batch, ForgetRequest


@final
class GradientAscent(Unlearner):
    """Raises the loss of forget samples; choose it as the simplest baseline without others. Approximate.

    ``-CE(forget)`` on the shared adapters. Reads the forget set only.

    Nothing keeps the rest and the ascent has no bound: more than a few small steps destroy the model.

    Args:
        epochs: Passes over the forget set.
        lr: Learning rate of AdamW; None trains as the model section says.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget"})

    def __init__(self, epochs: int = 1, lr: float | None = None, keep_rows: bool = False) -> None:
        """Keep the settings."""
        super().__init__()
        self.epochs, self.lr, self.keep_rows = epochs, lr, keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Ascend, then remove the classes."""

        def loss(model: Model, batch: Batch) -> Tensor:
            return -cross_entropy(strategy.predict(model, batch.x), columns(model, batch.y))

        yield Plan(event.data, editable(model), loss, self.epochs, adamw(self.lr))
        remove_forgotten(model, strategy, event, self.keep_rows)

"""Boundary shrink: relabel the forget set as the nearest class across the decision boundary.

Chen et al., "Boundary unlearning: rapid forgetting of deep networks via shifting the decision boundary", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import (
    Plan,
    Strategy,
    Unlearner,
    WithLabels,
    adamw,
    columns,
    editable,
    learned,
    parameter_importance,
    remove_forgotten,
)
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class BoundaryShrink(Unlearner):
    """Relabels forget samples as their nearest other class; needs only these. Approximate.

    Learn ``x_f`` as what the old model sees in ``x_f + eps sign(grad CE)``. Reads the forget set only.

    Args:
        eps: Length of the step (FGSM) across the boundary, in units of the inputs (0.1 in the paper).
        epochs: Passes over the forget set.
        lr: Learning rate of AdamW; None trains as the model section says.
        batch: Samples per pass of the search.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget"})

    def __init__(
        self, eps: float = 0.1, epochs: int = 10, lr: float | None = None, batch: int = 64, keep_rows: bool = False
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.eps, self.epochs, self.lr, self.batch, self.keep_rows = eps, epochs, lr, batch, keep_rows

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse inputs that cannot be moved across a boundary."""
        unmoved = f"the inputs of {model.backbone.name} cannot be moved along a gradient, for none reaches them"
        return None if model.backbone.smooth else unmoved

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Find the nearest classes, train on them as labels, then remove the classes."""
        with parameter_importance.open_to_gradients(model, ()):
            read = parameter_importance.batches(event.reference, self.batch, model.device)
            labels = torch.cat([neighbours(model, strategy, b.x, b.y, self.eps) for b in read])
        yield Plan(WithLabels(event.data, labels), editable(model), learned(strategy), self.epochs, adamw(self.lr))
        remove_forgotten(model, strategy, event, self.keep_rows)


def neighbours(model: Model, strategy: Strategy, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the class ids ``(n,)`` that the model sees, the true ones aside, after a step that raises the loss."""
    x, true = x.detach().requires_grad_(True), columns(model, y)
    loss = cross_entropy(strategy.predict(model, x), true, reduction="sum")
    (slope,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        scores = strategy.predict(model, x + eps * slope.sign())
    best = scores.scatter(1, true[:, None], float("-inf")).argmax(1)
    return torch.tensor(model.classes)[best.cpu()]

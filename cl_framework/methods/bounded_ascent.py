"""Losses on the forget set that rise as far as a bound, beside those on the retain set, with balanced gradients.

Zhao et al., "Continual forgetting for pre-trained vision models", CVPR 2024, Sec. 4 (GS-LoRA).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from cl_framework.models.model import Model

Clamp: TypeAlias = Literal["sample", "batch"]


@final
@dataclass(frozen=True, slots=True)
class Rise:
    """How losses on the forget set are raised beside those on the retain set.

    Attributes:
        beta: Weight of forgetting: one, or one for each request in turn; None balances the two gradients.
        ratio: Where balanced, the length of forgetting's gradient in that of retaining's.
        bound: Loss at which forgetting ends, in multiples of ln K.
        clamp: Whether each sample or their mean is bounded.
    """

    beta: float | Sequence[float] | None
    ratio: float
    bound: float
    clamp: Clamp

    def objection(self, model: Model) -> str | None:
        """Refuse a bound that the head cannot reach."""
        return out_of_reach(model, self.bound)

    def runs_out(self, model: Model, requests: int) -> str | None:
        """Warn where there are fewer betas than edits, after so many more requests."""
        edits = len(model.adapters.stack) + requests
        if isinstance(self.beta, Sequence) and edits > len(self.beta):
            return f"beta has {len(self.beta)} values and this is edit number {edits}"
        return None

    def begin(self, model: Model) -> Callable[[Tensor, Tensor, Sequence[nn.Parameter]], Tensor]:
        """Return the loss of a request from the cross-entropies of both sets and the parameters."""
        beta = self.beta[len(model.adapters.stack)] if isinstance(self.beta, Sequence) else self.beta
        nats = self.bound * math.log(len(model.classes))

        def loss(stay: Tensor, go: Tensor, params: Sequence[nn.Parameter]) -> Tensor:
            held, raised = stay.mean(), bounded(go, nats, self.clamp)
            return balanced(held, raised, params, self.ratio) if beta is None else held + beta * raised

        return loss


def bounded(losses: Tensor, bound: float, clamp: Clamp) -> Tensor:
    """Return ``max(0, bound - loss)``: minimising it raises the losses ``(n,)`` as far as ``bound``, in nats.

    ``sample`` bounds each loss and averages then; ``batch`` bounds the mean, as released, where a sample of large loss
    makes up for one of small loss.

    >>> losses = torch.tensor([0.0, 6.0])
    >>> bounded(losses, 3.0, "sample").item(), bounded(losses, 3.0, "batch").item()
    (1.5, 0.0)
    """
    return torch.relu(bound - losses).mean() if clamp == "sample" else torch.relu(bound - losses.mean())


def highest_loss(sigma: float, classes: int) -> float:
    """Return the largest cross-entropy, in nats, that ``sigma cos(w, z)`` reaches over so many classes.

    The right class then scores ``-sigma`` and every other ``sigma``: ``ln(1 + (K - 1) e^(2 sigma))``.

    >>> round(highest_loss(1.0, 10), 3)
    4.212
    """
    return math.log1p((classes - 1) * math.exp(2 * sigma))


def out_of_reach(model: Model, bound: float) -> str | None:
    """Return why a cross-entropy of ``bound ln K`` nats cannot be reached under the model's head; None if it can."""
    if model.head.sigma is None or (k := len(model.classes)) < 2:
        return None
    sigma = model.head.sigma.item()
    if bound * math.log(k) < (most := highest_loss(sigma, k)):
        return None
    return (
        f"its bound of {bound:g} ln {k} = {bound * math.log(k):.1f} nats is out of reach, because a cosine head with "
        f"sigma {sigma:.2f} loses at most {most:.1f}; set a bound below {most / math.log(k):.2f}"
    )


def balanced(stay: Tensor, go: Tensor, params: Sequence[nn.Parameter], ratio: float) -> Tensor:
    """Return ``stay + beta go``, where the gradient of ``beta go`` is ``ratio`` times as long as that of ``stay``.

    Both gradients are computed here, so the result carries their sum instead of a third pass: its
    value is that of the losses, its slope in ``params`` is ``g_stay + beta g_go``.
    """
    one, two = (torch.autograd.grad(loss, params, retain_graph=True, materialize_grads=True) for loss in (stay, go))
    length = [torch.cat([g.flatten() for g in gs]).norm() for gs in (one, two)]
    beta = ratio * length[0] / length[1].clamp_min(1e-12)
    slope = torch.stack([(p * (a + beta * b)).sum() for p, a, b in zip(params, one, two, strict=True)]).sum()
    total: Tensor = (stay + beta * go).detach() + slope - slope.detach()
    return total

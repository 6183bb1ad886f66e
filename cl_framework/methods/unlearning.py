"""Building blocks of approximate unlearners: editable parameters, losses, a teacher, removal of classes.

An approximate unlearner edits adapters of a model whose trained state is shared; the backbone and the head are
unchanged. What adapters learned of a class is counteracted, not removed, which is why such an edit is audited.

Stored state of retained classes is not computed again: their means, Gaussians and logits are those of features before
the edit. Constraints of a strategy on its adapters, such as directions to avoid, do not bind an edit, and penalties
towards old values pull it back when more is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer

from cl_framework.memory.erasure import Erasure, erase
from cl_framework.methods.base import Params, Strategy
from cl_framework.methods.forget_sets import batch_mask
from cl_framework.methods.losses import Loss, columns, other_columns
from cl_framework.models.model import Model
from cl_framework.streams.events import ForgetRequest
from cl_framework.streams.lazy_inputs import inputs
from cl_framework.streams.samples import Batch, Samples


def adamw(lr: float | None) -> Callable[[Params], Optimizer] | None:
    """Return a builder of AdamW without weight decay, one for all plans: its moments are kept between plans.

    None, where no rate is given, leaves the choice to the model section.
    """
    kept: list[Optimizer] = []

    def build(params: Params) -> Optimizer:
        if not kept:
            kept.append(AdamW(params, lr=lr or 0.0, weight_decay=0.0))
        for group in kept[0].param_groups:
            group["lr"] = lr  # a schedule may have ended the plan before at zero
        return kept[0]

    return None if lr is None else build


def editable(model: Model) -> list[nn.Parameter]:
    """Return the parameters that may be edited in place: every adapter but the edits of earlier requests."""
    return [p for name in model.adapters.learned for p in model.adapters.params(name)]


def relabelling(strategy: Strategy, gone: Tensor) -> Loss:
    """Return a loss that gives the samples with the ids ``gone`` a wrong label, drawn from all classes each time."""

    def loss(model: Model, batch: Batch) -> Tensor:
        y = columns(model, batch.y)
        wrong = other_columns(y, len(model.classes))
        return cross_entropy(strategy.predict(model, batch.x), torch.where(batch_mask(batch, gone), wrong, y))

    return loss


def learned(strategy: Strategy) -> Loss:
    """Return the cross-entropy of the strategy's scores."""
    return lambda model, batch: cross_entropy(strategy.predict(model, batch.x), columns(model, batch.y))


@torch.no_grad()
def error(model: Model, strategy: Strategy, samples: Samples) -> float:
    """Return the share of samples, at least one, that the strategy gives another class."""
    right = 0
    for x, y in zip(inputs(samples, 256), torch.split(samples.labels, 256), strict=True):
        right += int((strategy.predict(model, x).argmax(1).cpu() == columns(model, y)).sum())
    return 1 - right / len(samples)


def with_features(model: Model, strategy: Strategy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last features ``(n, width)`` that a strategy makes for its scores, and the scores.

    Row by row, however many passes they took: inputs may go in groups of one length, or each its own way (`Routed`).
    """
    seen: list[Tensor] = []
    watch = model.exit.register_forward_hook(lambda _, __, z: seen.append(z))
    try:
        scores = strategy.predict(model, x)
    finally:
        watch.remove()
    return seen[-1], scores


@runtime_checkable
class Scalable(Protocol):
    """A rewrite that adds an update to a linear map, so that it can be scaled and negated."""

    def rescale(self, by: float) -> None:
        """Multiply the update by a number."""


@final
class Teacher:
    """The model at an earlier time: its weights are restored for a pass, so that only adapters are copied.

    Call the teacher before the student's own pass in the same loss: the weights change in place.
    """

    def __init__(self, model: Model, strategy: Strategy, params: Sequence[nn.Parameter]) -> None:
        """Store a copy of ``params``."""
        self.model, self.strategy, self.params = model, strategy, list(params)
        self.then = [p.detach().clone() for p in params]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores ``(n, classes)`` of the model at that time."""
        now, training = [p.detach().clone() for p in self.params], self.model.adapters.training
        self.put(self.then)
        self.model.adapters.eval()
        scores = self.strategy.predict(self.model, x)
        self.model.adapters.train(training)
        self.put(now)
        return scores

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Set the values of the parameters."""
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)
        torch.clear_autocast_cache()  # which holds low-precision copies of what the parameters were


def remove_forgotten(model: Model, strategy: Strategy, event: ForgetRequest, keep_rows: bool = False) -> None:
    """Erase the forget set from memory and, unless ``keep_rows``, its classes from the label space.

    With ``keep_rows`` the head keeps scoring forgotten classes, as in the protocol of GS-LoRA, so that accuracy on them
    measures the edit alone.
    """
    ids = frozenset(event.data.ids.tolist())
    erasure = Erasure(ids=ids) if keep_rows else Erasure(frozenset(event.classes), ids=ids, cells=event.cells)
    erase(erasure, model, strategy)

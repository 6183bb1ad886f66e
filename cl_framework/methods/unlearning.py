"""Building blocks of approximate unlearners: editable parameters, paired batches, a teacher, removal of classes.

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
from cl_framework.methods.losses import Loss, columns, other_columns
from cl_framework.models.model import Model
from cl_framework.streams.events import ForgetRequest
from cl_framework.streams.lazy_inputs import inputs
from cl_framework.streams.samples import Batch, Joined, Samples


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


def batch_mask(batch: Batch, ids: Tensor) -> Tensor:
    """Return a mask ``(n,)`` of the samples of ``batch`` whose ids are among ``ids``."""
    return torch.isin(batch.ids, ids.to(batch.ids.device))


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


def retained(event: ForgetRequest, share: float = 1.0) -> Samples:
    """Return the retain set with the training transform; of each class a random ``share``, at least one."""
    return Joined([_some(e.data, share) for e in event.remaining])


def reference_of(event: ForgetRequest, chosen: Samples) -> Samples:
    """Return the samples of the retain set with ids in ``chosen``, with the test transform."""
    return Joined([e.reference.where(torch.isin(e.reference.ids, chosen.ids)) for e in event.remaining])


def hold_out(event: ForgetRequest, stay: Samples) -> tuple[Samples, Samples]:
    """Return as many samples of each class as are forgotten, at most half of it; and the rest of ``stay``."""
    held = torch.zeros(len(stay), dtype=torch.bool)
    for c in event.data.classes():
        of = stay.labels == c
        held |= of & (of.cumsum(0) <= min(int((event.data.labels == c).sum()), max(1, int(of.sum()) // 2)))
    return reference_of(event, stay.where(held)), stay.where(~held)


def _some(samples: Samples, share: float) -> Samples:
    if share >= 1:
        return samples
    keep = torch.zeros(len(samples), dtype=torch.bool)
    for c in samples.labels.unique():  # type: ignore[no-untyped-call]
        of = (samples.labels == c).nonzero()[:, 0]
        keep[of[torch.randperm(len(of))[: max(1, round(share * len(of)))]]] = True
    return samples.where(keep)


@runtime_checkable
class Scalable(Protocol):
    """A rewrite that adds an update to a linear map, so that it can be scaled and negated."""

    def rescale(self, by: float) -> None:
        """Multiply the update by a number."""


@final
class Paired(Samples):
    """The retain set, with random samples of the forget set in every batch.

    An epoch reads the retain set once. `gone` tells the two apart. ``pace`` is the number of samples of the forget set
    for each one of the retain set: forgetting takes fewer steps than retaining.

    >>> from cl_framework.streams import Rows
    >>> a, b = (Rows(torch.zeros(3, 1), torch.full((3,), c), torch.arange(3) + 10 * c) for c in (0, 1))
    >>> pairs = Paired(retain=a, forget=b)
    >>> pairs.gone(pairs[[0, 2]]).tolist()
    [False, False, True, True]
    """

    def __init__(self, retain: Samples, forget: Samples, pace: float = 1.0) -> None:
        """Join both."""
        self.retain, self.forget, self.pace = retain, forget, pace
        self.labels, self.ids, self.key = retain.labels, retain.ids, None

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read the rows to retain, then those to forget."""
        drawn = torch.randint(len(self.forget), (max(1, round(self.pace * len(rows))),)).tolist()
        return Batch(*(torch.cat(pair) for pair in zip(self.retain[rows], self.forget[drawn], strict=True)))

    def classes(self) -> list[int]:
        """Return the classes of both."""
        return sorted({*self.retain.classes(), *self.forget.classes()})

    def gone(self, batch: Batch) -> Tensor:
        """Return a mask ``(n,)`` of the samples of ``batch`` that are to be forgotten."""
        return batch_mask(batch, self.forget.ids)


@final
class WithLabels(Samples):
    """The same samples with other labels."""

    def __init__(self, whole: Samples, labels: Tensor) -> None:
        """Keep the samples and their labels ``(n,)``."""
        self.whole, self.labels, self.ids, self.key = whole, labels, whole.ids, whole.key

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read through and relabel."""
        return Batch(self.whole[rows].x, self.labels[torch.as_tensor(rows, dtype=torch.int64)], self.ids[list(rows)])

    def classes(self) -> list[int]:
        """Return the classes of the labels, and those that the samples are really of."""
        return sorted({*self.whole.classes(), *super().classes()})


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

"""Forget and retain sets as samples: shares, held-out parts, batches of both, other labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from cl_framework.streams.events import ForgetRequest
from cl_framework.streams.samples import Batch, Joined, Samples


def batch_mask(batch: Batch, ids: Tensor) -> Tensor:
    """Return a mask ``(n,)`` of the samples of ``batch`` whose ids are among ``ids``."""
    return torch.isin(batch.ids, ids.to(batch.ids.device))


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

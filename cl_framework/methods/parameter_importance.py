"""Importance of parameters: gradients summed, or squared and averaged, by sample or by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cl_framework.models.compute import uncompiled
from cl_framework.models.model import Model
from cl_framework.streams.samples import Batch, Samples

BatchLoss: TypeAlias = Callable[[Batch], Tensor]


@contextmanager
def open_to_gradients(model: Model, params: Sequence[nn.Parameter]) -> Iterator[None]:
    """Enable gradients of ``params`` without dropout for the duration of the block."""
    before, training = [p.requires_grad for p in params], model.adapters.training
    model.adapters.eval()
    for p in params:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p, was in zip(params, before, strict=True):
            p.requires_grad_(was)
        model.adapters.train(training)


def batches(samples: Samples, size: int, device: torch.device) -> Iterator[Batch]:
    """Read samples in order, ``size`` at a time."""
    for rows in torch.split(torch.arange(len(samples)), size):
        yield Batch(*(part.to(device) for part in samples[rows.tolist()]))


def summed_gradient(loss: BatchLoss, params: Sequence[nn.Parameter], read: Iterable[Batch]) -> list[Tensor]:
    """Return the sum over batches of the gradient of ``loss``, shaped as ``params``."""
    total = [torch.zeros_like(p) for p in params]
    for batch in read:
        for t, g in zip(total, _gradient(loss(batch), params), strict=True):
            t += g
    return total


def mean_square(loss: BatchLoss, params: Sequence[nn.Parameter], read: Iterable[Batch]) -> list[Tensor]:
    """Return the mean over batches of the squared gradient of ``loss``.

    Batches of one give the empirical Fisher information. Larger ones give less: gradients cancel before they are
    squared, so that two such measurements compare only at one batch size.

    >>> p = nn.Parameter(torch.ones(2))
    >>> rows = [Batch(torch.tensor([[float(i), 0.0]]), torch.zeros(1), torch.zeros(1)) for i in (1, 3)]
    >>> mean_square(lambda batch: (batch.x @ p).sum(), [p], rows)[0].tolist()
    [5.0, 0.0]
    """
    total, count = [torch.zeros_like(p) for p in params], 0
    for batch in read:
        for t, g in zip(total, _gradient(loss(batch), params), strict=True):
            t += g.square()
        count += 1
    return [t / max(count, 1) for t in total]


def fisher(scores: Callable[[Tensor], Tensor], params: Sequence[nn.Parameter], read: Iterable[Batch]) -> list[Tensor]:
    """Return the diagonal Fisher information ``E_x sum_y p(y|x) (d log p(y|x))^2``: all labels, not the true one.

    Golatkar et al., "Eternal sunshine of the spotless net", CVPR 2020.

    Args:
        scores: Differentiable scores ``(n, classes)``.
        params: Parameters of the information.
        read: Batches; each sample is differentiated by itself.
    """
    total, count = [torch.zeros_like(p) for p in params], 0
    for x in (x for batch in read for x in batch.x):
        with uncompiled():
            log_p = scores(x[None]).log_softmax(1)[0]
        each = torch.eye(len(log_p), device=log_p.device)
        rows = torch.autograd.grad(log_p, params, each, is_grads_batched=True, allow_unused=True)
        for t, g in zip(total, rows, strict=True):
            if g is not None:  # a sample need not pass through every adapter
                t += torch.einsum("k,k...->...", log_p.detach().exp(), g.square())
        count += 1
    return [t / max(count, 1) for t in total]


def top_share(importance: Sequence[Tensor], share: float) -> list[Tensor]:
    """Return masks of the ``share`` of entries that matter most, ranked over all tensors together.

    >>> top_share([torch.tensor([1.0, 5.0]), torch.tensor([3.0, 2.0])], 0.5)
    [tensor([False,  True]), tensor([ True, False])]
    """
    flat = torch.cat([t.flatten() for t in importance])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.topk(round(share * len(flat))).indices] = True
    parts = torch.split(mask, [t.numel() for t in importance])
    return [m.view_as(t) for m, t in zip(parts, importance, strict=True)]


def _gradient(loss: Tensor, params: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, params, materialize_grads=True)

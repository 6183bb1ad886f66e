"""Losses over live classes, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from cl_framework.models.model import Model
from cl_framework.streams.samples import Batch


def columns(model: Model, labels: Tensor) -> Tensor:
    """Return the column of each class id ``(n,)`` in the model's scores."""
    alive = torch.tensor(model.classes, device=labels.device)
    return (labels[:, None] == alive).int().argmax(1)


def other_columns(y: Tensor, classes: int) -> Tensor:
    """Draw for each column ``(n,)`` one of all the others, evenly.

    >>> set(other_columns(torch.full((200,), 1), 3).tolist())
    {0, 2}
    """
    drawn = torch.randint(classes - 1, y.shape, device=y.device)
    return drawn + (drawn >= y)


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean over samples of ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of scores ``(n, k)``.

    >>> z = torch.tensor([[1.0, 2.0]])
    >>> divergence(z, z + 3).item(), divergence(z, -z) > 0
    (0.0, tensor(True))
    """
    log_p, log_q = ((z / temperature).log_softmax(1) for z in (teacher, student))
    return temperature**2 * kl_div(log_q, log_p, reduction="batchmean", log_target=True)


Loss: TypeAlias = Callable[[Model, Batch], Tensor]


def classify(model: Model, batch: Batch) -> Tensor:
    """Return the cross-entropy of the model's head on a batch, over every class that has a row."""
    return cross_entropy(model(batch.x), model.head.index(batch.y))


def classify_among(model: Model, scores: Tensor, y: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the cross-entropy over the rows of ``classes`` only: other rows get no gradient.

    Args:
        model: The model of the head.
        scores: ``(n, rows)``.
        y: ``(n,)`` class ids, all of them among ``classes``.
        classes: The classes to tell from one another.
    """
    among = model.head.index(torch.tensor(classes, device=y.device))
    right = scores.gather(1, model.head.index(y)[:, None])[:, 0]
    return (scores[:, among].logsumexp(1) - right).mean()

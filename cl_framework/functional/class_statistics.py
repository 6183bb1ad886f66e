"""Class statistics of features that can be added and subtracted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


def class_means(z: Tensor, y: Tensor, classes: Iterable[int]) -> dict[int, Tensor]:
    """Return the mean feature of each class, summed in double precision.

    Args:
        z: ``(n, width)`` features.
        y: ``(n,)`` class ids.
        classes: Which means to return; each must occur in ``y``.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([7, 7, 8]), [7])[7]
    tensor([2.])
    """
    return {c: z[y == c].double().mean(0).to(z.dtype) for c in classes}


@final
@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of outer products of features, in double precision: all that a Gaussian needs.

    >>> a, b = Moments.of(torch.randn(4, 2)), Moments.of(torch.randn(3, 2))
    >>> torch.allclose((a + b - b).covariance(), a.covariance())
    True

    Attributes:
        count: Number of samples.
        total: ``(width,)`` sum.
        outer: ``(width, width)`` sum of outer products.
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, z: Tensor) -> Moments:
        """Compute the moments of features ``(n, width)``."""
        wide = z.double()
        return cls(len(z), wide.sum(0), wide.T @ wide)

    def __add__(self, other: Moments) -> Moments:
        """Pool with other samples."""
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: Moments) -> Moments:
        """Subtract samples that were added."""
        return Moments(self.count - other.count, self.total - other.total, self.outer - other.outer)

    def mean(self) -> Tensor:
        """Return the mean ``(width,)``."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """Return the unbiased covariance ``(width, width)``; zeros for a single sample."""
        if self.count < 2:
            return torch.zeros_like(self.outer)
        mean = self.mean()
        return (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)


def class_moments(z: Tensor, y: Tensor, classes: Iterable[int]) -> dict[int, Moments]:
    """Return the moments of the features of each class.

    Args:
        z: ``(n, width)`` features.
        y: ``(n,)`` class ids.
        classes: Which to measure; each must occur in ``y``.

    >>> class_moments(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([7, 7, 8]), [7])[7].covariance()
    tensor([[2.]], dtype=torch.float64)
    """
    return {c: Moments.of(z[y == c]) for c in classes}


def mahalanobis(u: Tensor, v: Tensor, inverses: Sequence[Tensor]) -> Tensor:
    """Return ``(u_i - v_c)^T R_c (u_i - v_c)``, many classes at once: as many as fit a block of bounded memory.

    Args:
        u: ``(n, width)`` points.
        v: ``(classes, width)`` centres.
        inverses: ``R_c`` ``(width, width)`` of each class.

    Returns:
        ``(n, classes)``.

    >>> mahalanobis(torch.tensor([[3.0, 4.0]]), torch.zeros(2, 2), [torch.eye(2), 2 * torch.eye(2)])
    tensor([[25., 50.]])
    """
    room = 2**20 if u.device.type == "cpu" else 2**26  # numbers in a block: fits a CPU cache, fills a GPU
    size, distances = max(1, room // max(u.numel(), 1)), []
    for i in range(0, len(v), size):
        apart = u - v[i : i + size, None]
        distances.append((torch.bmm(apart, torch.stack(list(inverses[i : i + size]))) * apart).sum(-1))
    return torch.cat(distances).T


def semantic_shift(means: Tensor, before: Tensor, after: Tensor, sigma: float = 4.0, floor: float = 1e-5) -> Tensor:
    """Return the shift of class means, estimated from samples near them: ``sum_i w_ci (after_i - before_i)``.

    ``w_ci = exp(-|before_i - means_c|^2 / (2 sigma^2)) + floor``, normalised over samples: Yu et al., "Semantic drift
    compensation for class-incremental learning", CVPR 2020, with SSIAT's floor, which makes the shift that of
    the mean sample where no sample is near.

    Args:
        means: ``(classes, width)``.
        before: ``(n, width)`` features of samples before training.
        after: ``(n, width)`` features of the same samples after it.
        sigma: Width of the Gaussian weight, in the units of features.
        floor: Added to every weight.

    Returns:
        ``(classes, width)``, in double precision.

    >>> before, after = torch.tensor([[0.0], [90.0]]), torch.tensor([[1.0], [90.0]])
    >>> semantic_shift(torch.zeros(1, 1), before, after).round(decimals=3)
    tensor([[1.]], dtype=torch.float64)
    """
    mu, one, two = means.double(), before.double(), after.double()
    apart = (mu.square().sum(1)[:, None] + one.square().sum(1) - 2 * mu @ one.T).clamp_min(0)
    weights = torch.exp(-apart / (2 * sigma**2)) + floor
    return weights / weights.sum(1, keepdim=True) @ (two - one)

"""Ridge regression from sums: weights and choice of the penalty.

Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", Technometrics
21, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

FLOOR = 1e-10
"""Least penalty, as a share of the trace of ``G``: a smaller one would amplify the rounding of sums."""
SHARES = tuple(10.0 ** (k / 2) for k in range(-20, 1))
"""Penalties that `gcv_ridge` chooses from, as shares of the trace of ``G``."""

TIE = 1.001
"""Errors that differ by less than this factor count as equal."""


def ridge_weights(gram: Tensor, q: Tensor, ridge: float) -> Tensor:
    """Return the ridge regression of one-hot labels on ``h``: ``W = (G + ridge I)^-1 Q``, ``(width, classes)``.

    Args:
        gram: ``G = sum h h^T`` ``(width, width)``.
        q: ``sum h`` of each class ``(width, classes)``.
        ridge: Weight of the penalty; at least `FLOOR` times the trace of ``G`` is taken.

    >>> ridge_weights(torch.eye(2), torch.eye(2), ridge=1.0)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    eye = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    ridge = max(ridge, FLOOR * float(gram.trace())) or 1.0  # without any feature above zero there is nothing to amplify
    weights: Tensor = torch.linalg.solve(gram + ridge * eye, q)
    return weights


def gcv_ridge(gram: Tensor, q: Tensor, n: Tensor) -> float:
    """Return the largest penalty of nearly minimal `gcv_errors` among `SHARES` of the trace of ``G``.

    It follows from the sums alone: no sample is read, and neither the order of experiences nor a random split counts.
    Small penalties often do equally well, and rounding would choose among them.

    Args:
        gram: ``G = sum h h^T`` ``(width, width)``.
        q: ``sum h`` of each class ``(width, classes)``.
        n: Samples of each class ``(classes,)``.
    """
    ridges: list[float] = [share * float(gram.trace()) for share in SHARES]
    errors = gcv_errors(gram, q, n, ridges)
    return ridges[int((errors <= TIE * errors.min()).nonzero()[-1])]


def gcv_errors(gram: Tensor, q: Tensor, n: Tensor, ridges: Sequence[float]) -> Tensor:
    """Return the generalised cross-validation error of `ridge_weights` for many penalties ``(ridges,)``.

    ``(RSS / N) / (1 - df / N)^2`` with ``G = V diag(s) V^T``, ``p = V^T Q``, ``N = sum n``, which is also the sum of
    squares of one-hot labels, ``df = sum s / (s + l)``: with ``p^2 / s`` the part of the labels along a direction and
    ``u`` what no direction explains, ``RSS = u + sum p^2 / s (l / (s + l))^2`` and ``N - df`` is ``N`` less the rank
    plus ``sum l / (s + l)``. As differences from ``N`` both would be rounding alone where samples are fewer than
    features. Infinite where ``df`` is ``N``: no degree of freedom is left.

    Args:
        gram: ``G = sum h h^T`` ``(width, width)``.
        q: ``sum h`` of each class ``(width, classes)``.
        n: Samples of each class ``(classes,)``.
        ridges: Penalties ``l``.
    """
    values, vectors = torch.linalg.eigh(gram)
    nonzero = values > len(gram) * torch.finfo(gram.dtype).eps * values.max()
    s, total = values[nonzero], n.sum()
    parts = (vectors.T @ q).square().sum(1)[nonzero] / s
    spare = (total - len(s)).clamp_min(0)  # with as many directions as samples they explain every label
    unexplained = (total - parts.sum()).clamp_min(0) if spare > 0 else spare
    errors = []
    for ridge in ridges:
        shrunk = ridge / (s + ridge)
        squares, left = unexplained + (parts * shrunk.square()).sum(), (spare + shrunk.sum()) / total
        errors.append(squares / total / left.square() if left > 0 else left.new_tensor(float("inf")))
    return torch.stack(errors)


def holdout_errors(fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], ridges: Sequence[float]) -> Tensor:
    """Return the mean squared error of `ridge_weights` on samples held out, for many penalties ``(ridges,)``.

    One eigendecomposition serves them all: of ``h^T h``, or of ``h h^T`` where there are fewer samples than features.

    Args:
        fit: ``h`` ``(n, width)`` and targets ``(n, classes)`` of the samples to fit.
        held: The same of the held-out samples.
        ridges: Weights of the penalty.
    """
    (h, y), (g, wanted) = ((a.double(), b.double()) for a, b in (fit, held))
    wide = h.shape[1] > len(h)
    values, vectors = torch.linalg.eigh(h @ h.T if wide else h.T @ h)
    seen, given = (g @ h.T @ vectors, vectors.T @ y) if wide else (g @ vectors, vectors.T @ (h.T @ y))
    errors = [(seen / (values.clamp_min(0) + r) @ given - wanted).square().mean() for r in ridges]
    return torch.stack(errors)


def holdout_ridge(h: Tensor, y: Tensor, ridges: Sequence[float], seed: int) -> Tensor:
    """Return that of ``ridges`` which does best on a random fifth of the samples, fitted on the others.

    Args:
        h: ``(n, width)`` features.
        y: ``(n,)`` class ids.
        ridges: What to choose from.
        seed: Of the split.
    """
    targets = (y[:, None] == y.unique()).double()  # type: ignore[no-untyped-call]
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(seed)).to(h.device)
    fit, held = order[: max(1, int(0.8 * len(h)))], order[int(0.8 * len(h)) :]
    best = holdout_errors((h[fit], targets[fit]), (h[held], targets[held]), ridges).argmin()
    return torch.tensor(ridges, dtype=torch.float64, device=h.device)[best]


@final
class RandomFeatures:
    """``relu(z R)`` with ``R`` drawn from a normal distribution: fixed by its seed, so that it is never stored.

    The product is in double precision: in single precision its last bits depend on how many rows it has, so that the
    features subtracted from `Sums` would not be those that were added.

    >>> RandomFeatures(5, seed=0)(torch.ones(2, 3)).shape
    torch.Size([2, 5])

    Args:
        size: How many features.
        seed: Of ``R``.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        """Draw ``R`` later: the first features set the width."""
        self.size, self.seed = size, seed
        self._projection = torch.empty(0)

    def __call__(self, z: Tensor) -> Tensor:
        """Map ``(n, width)`` to ``(n, size)``, in double precision."""
        if len(self._projection) != z.shape[1]:
            rng = torch.Generator().manual_seed(self.seed)
            self._projection = torch.randn(z.shape[1], self.size, generator=rng).double()
        self._projection = self._projection.to(z.device)
        return torch.relu(z.double() @ self._projection)


def discriminants(gram: Tensor, q: Tensor, n: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the linear discriminants under one shared covariance: ``W = L M`` and ``b = - diag(M^T L M) / 2``.

    ``M = Q / n`` are the class means, ``S = (G - sum n_c m_c m_c^T) / N`` the covariance within classes, and
    ``L = ((1 - shrinkage) S + shrinkage I)^-1``.

    Args:
        gram: ``G = sum h h^T`` ``(width, width)``.
        q: ``sum h`` of each class ``(width, classes)``.
        n: Samples of each class ``(classes,)``.
        shrinkage: Share of the identity.

    Returns:
        Weights ``(width, classes)`` and biases ``(classes,)``.
    """
    means = q / n
    covariance = (gram - (means * n) @ means.T) / n.sum()
    eye = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    weights = torch.linalg.solve((1 - shrinkage) * covariance + shrinkage * eye, means)
    return weights, -(weights * means).sum(0) / 2

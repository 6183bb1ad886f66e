"""Classifier alignment: a head trained on features drawn from a Gaussian of each class, without a backbone pass.

Zhang et al., "SLCA: Slow learner with classifier alignment for continual learning on a pre-trained model", ICCV 2023;
MOS and SSIAT end each experience with it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cl_framework.functional.class_statistics import class_moments
from cl_framework.memory.erasure import Erasure
from cl_framework.memory.tensor_store import COUNT, Key, TensorStore
from cl_framework.methods.base import Params, Plan
from cl_framework.models.model import Model
from cl_framework.streams.samples import Batch, Samples

MEAN, COVARIANCE = "mean", "covariance"


@final
class Gaussians(nn.Module):
    """Mean and covariance of the features of each class, filed by class and by the adapter they were measured with.

    Or by the experience that brought them, where a class may come again: it has then those of all its samples.

    >>> found, z = Gaussians(), torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    >>> found.measure(z, torch.tensor([7, 7]), [7], "shared")
    >>> found.of(7)
    (tensor([1., 2.]), tensor([[2., 4.],
            [4., 8.]]))

    Args:
        diagonal: Keep the variances only: ``(width,)`` instead of ``(width, width)``, and enough for tiny classes.
    """

    def __init__(self, diagonal: bool = False) -> None:
        """Start empty."""
        super().__init__()
        self.diagonal, self.filed = diagonal, TensorStore()
        self._version = -1
        self._found: dict[int | None, list[Key]] = {}
        self._pooled: dict[int, tuple[Tensor, Tensor]] = {}

    def __contains__(self, cls: object) -> bool:
        """Tell whether a class has statistics."""
        return any(e.cls == cls for e in self.filed)

    def missing(self, classes: Iterable[int], experience: str) -> list[int]:
        """Return the classes without statistics under an experience."""
        return [c for c in classes if Key(c, experience, MEAN) not in self.filed]

    def measure(self, z: Tensor, y: Tensor, classes: Iterable[int], space: str, more: bool = False) -> None:
        """Store the statistics of classes.

        Args:
            z: ``(n, width)`` features.
            y: ``(n,)`` class ids.
            classes: Which to measure; each must occur in ``y``.
            space: The adapter that the features passed through; or the experience that brought them.
            more: Whether other experiences may bring other features of a class: `of` then pools what is filed of it.
        """
        for c, moments in class_moments(z, y, classes).items():
            for entry in [e for e in self.filed if e.cls == c and not more]:
                del self.filed[entry]
            if more:
                self.filed[Key(c, space, COUNT)] = torch.tensor(moments.count)
            spread = moments.covariance()
            self.filed[Key(c, space, MEAN)] = moments.mean().to(z.dtype)
            self.filed[Key(c, space, COVARIANCE)] = (spread.diagonal() if self.diagonal else spread).to(z.dtype)

    def of(self, cls: int) -> tuple[Tensor, Tensor]:
        """Return mean ``(width,)`` and covariance ``(width, width)``, or variances ``(width,)``, of a class."""
        parts = self._parts(cls)
        if len(parts) > 1:
            if cls not in self._pooled:
                self._pooled[cls] = self._pool(parts)
            return self._pooled[cls]
        return self.filed[parts[0]], self.filed[parts[0]._replace(name=COVARIANCE)]

    def means(self, classes: Sequence[int]) -> Tensor:
        """Return the means ``(classes, width)``."""
        return torch.stack([self.of(c)[0] for c in classes])

    def move(self, classes: Sequence[int], by: Tensor) -> None:
        """Add ``by`` ``(classes, width)`` to the means; covariances stay."""
        for c, step in zip(classes, by, strict=True):
            (entry,) = self._parts(c)
            self.filed[entry] = self.filed[entry] + step.to(self.filed[entry])

    def erase(self, erasure: Erasure) -> None:
        """Delete pooled values; the tensor store erases its own."""
        self._version, self._found, self._pooled = -1, {}, {}

    def _parts(self, cls: int) -> list[Key]:
        """Return where means of a class are filed, in an order that does not depend on history."""
        if self._version != self.filed.version:
            self._version, self._found, self._pooled = self.filed.version, {}, {}
            for entry in sorted((e for e in self.filed if e.name == MEAN), key=lambda e: e.experience or ""):
                self._found.setdefault(entry.cls, []).append(entry)
        if cls not in self._found:
            raise KeyError(f"Class {cls} has not been measured.")
        return self._found[cls]

    def _pool(self, parts: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of all samples: ``C = (sum (n-1) C_e + sum n (m_e-m)(m_e-m)^T) / (N-1)``."""
        n = torch.stack([self.filed[e._replace(name=COUNT)] for e in parts]).double()
        means = torch.stack([self.filed[e] for e in parts]).double()
        spread = torch.stack([self.filed[e._replace(name=COVARIANCE)] for e in parts]).double()
        mean = (n[:, None] * means).sum(0) / n.sum()
        off = means - mean
        between = (n[:, None] * off.square()).sum(0) if self.diagonal else (n * off.T) @ off
        within = ((n - 1).view(-1, *[1] * (spread.ndim - 1)) * spread).sum(0)
        like = self.filed[parts[0]]
        return mean.to(like), ((within + between) / (n.sum() - 1)).to(like)


@final
class DrawnFeatures(Samples):
    """Features drawn from a Gaussian of each class, the same number of each; drawn again for every epoch.

    Args:
        gaussians: Mean ``(width,)`` and factor of each class, as `factor` returns it.
        each: How many to draw of each class.
    """

    def __init__(self, gaussians: Mapping[int, tuple[Tensor, Tensor]], each: int) -> None:
        """Store the arguments."""
        self.gaussians, self.each = dict(gaussians), each
        self.labels = torch.tensor(list(gaussians), dtype=torch.int64).repeat_interleave(each)
        self.ids, self.key = torch.full_like(self.labels, -1), None  # generated, not a real sample
        self._x, self._unread = torch.empty(0), 0

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Return drawn features; after a whole epoch all are drawn again."""
        if self._unread <= 0:
            self._x, self._unread = torch.cat([self._draw(*g) for g in self.gaussians.values()]), len(self)
        self._unread -= len(rows)
        at = torch.as_tensor(rows, dtype=torch.int64)
        return Batch(self._x[at.to(self._x.device)], self.labels[at], self.ids[at])

    def _draw(self, mean: Tensor, factor: Tensor) -> Tensor:
        noise = torch.randn(self.each, len(mean)).to(mean)  # drawn on the CPU, the same for every device
        return mean + (noise * factor if factor.ndim == 1 else noise @ factor.T)


def factor(covariance: Tensor, eps: float) -> Tensor:
    """Return ``F`` ``(width, width)`` with ``F F^T = covariance + e I``, in double precision.

    Cholesky with ``e = eps`` and, where that fails, ten times as much, up to 1; after that the eigenvectors, with
    negative eigenvalues taken for zero. Variances ``(width,)`` give standard deviations ``(width,)``.

    >>> singular = torch.tensor([[4.0, 2.0], [2.0, 1.0]])
    >>> f = factor(singular, eps=0.0)
    >>> torch.allclose(f @ f.T, singular.double())
    True
    """
    wide = covariance.double()
    if wide.ndim == 1:
        return (wide + eps).clamp_min(0).sqrt()
    eye = torch.eye(len(wide), device=wide.device, dtype=wide.dtype)
    tries = [e for e in (eps * 10**k for k in range(10)) if e <= 1.001]
    for e in tries:
        lower: Tensor
        lower, failed = torch.linalg.cholesky_ex(wide + e * eye)
        if not bool(failed):
            return lower
    values, vectors = torch.linalg.eigh(wide)
    factored: Tensor = vectors * values.clamp_min(0).sqrt()
    return factored


def align(
    model: Model,
    gaussians: Gaussians,
    *,
    epochs: int,
    lr: float,
    draws: int,
    params: Params | None = None,
    scores: Callable[[Tensor], Tensor] | None = None,
    weight_decay: float = 5e-4,
    eps: float = 1e-4,
    shrink: Mapping[int, float] | None = None,
) -> Plan:
    """Return the plan that trains the head on drawn features of every live class.

    An epoch takes as many steps as there are classes, each on ``draws`` features, by SGD with momentum 0.9 at a rate
    that falls along a cosine, however the rate of training falls.

    Args:
        model: Whose live classes are drawn, and whose head has a row for each.
        gaussians: Statistics of the classes.
        epochs: Number of epochs, each of new draws.
        lr: Learning rate of SGD.
        draws: Features of each class in an epoch, and in a step.
        params: What is trained; None stands for the whole head.
        scores: Features ``(n, width)`` to logits ``(n, rows)``; None stands for the head.
        weight_decay: Of SGD.
        eps: Added to the diagonal of covariances.
        shrink: Factor on the mean of each class; none stands for 1.
    """
    gaussians_by_class = {}
    for c in model.classes:
        mean, covariance = gaussians.of(c)
        gaussians_by_class[c] = (mean * (shrink or {}).get(c, 1.0), factor(covariance, eps).to(mean))

    def loss(model: Model, batch: Batch) -> Tensor:
        return cross_entropy((scores or model.head)(batch.x), model.head.index(batch.y))

    def optimizer(params: Params) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=weight_decay)

    trained = list(model.head.parameters()) if params is None else params
    return Plan(
        DrawnFeatures(gaussians_by_class, draws), trained, loss, epochs, optimizer, batch_size=draws, schedule="cosine"
    )


def by_age(model: Model, least: float = 0.9) -> dict[int, float]:
    """Return ``least + (1 - least) (t_c + 1) / (b + 1)`` for each class of experience ``t_c`` of ``b + 1``.

    Old classes are drawn nearer to the origin (SLCA and SSIAT, as released).
    """
    names = model.experiences
    return {c: least + (1 - least) * (names.index(e) + 1) / len(names) for c, e in model.known.items()}


def normalised(logits: Tensor, owner: Tensor, temperature: float = 0.1) -> Tensor:
    """Divide logits by the mean norm of an experience's logits and by ``temperature`` (SLCA).

    Args:
        logits: ``(n, classes)``.
        owner: ``(classes,)`` the experience of each column.
        temperature: Below 1 sharpens.

    >>> normalised(torch.tensor([[3.0, 4.0, 15.0]]), torch.tensor([0, 0, 1]))
    tensor([[ 3.,  4., 15.]])
    """
    norms = [logits[:, owner == t].norm(dim=1) for t in owner.unique()]  # type: ignore[no-untyped-call]
    return logits / torch.stack(norms, 1).mean(1, keepdim=True).clamp_min(1e-12) / temperature

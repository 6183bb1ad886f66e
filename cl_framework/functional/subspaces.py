"""Subspaces: overlap penalties, projections, memory of input directions, disjoint bases.

Rows of a factor ``a`` ``(rank, width)`` are directions of the input. Two low-rank updates do not interfere on any input
if their rows are orthogonal. For directions of the output pass the columns of ``b``, transposed. Decompositions run in
double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

Norm: TypeAlias = Literal["squared", "l1"]

SPAN = 1e-6
"""Singular values below this share of the largest count as rounding: weights are in single precision."""


def interference(new: Tensor, old: Tensor, norm: Norm = "squared", cosines: bool = False) -> Tensor:
    """Return how much the rows of two factors overlap: ``sum_pq |<new_p, old_q>|^2``, or without the square.

    Args:
        new: ``(r, width)``.
        old: ``(..., k, width)``; several factors are summed over.
        norm: ``squared`` entries or their absolute values (``l1``).
        cosines: Bring rows to length one and take the mean over pairs of rows of one factor, so that neither rank nor
            shrinking the rows changes the value.

    >>> new, old = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    >>> interference(new, old).item(), interference(new, old, "l1").item()
    (37.0, 7.0)
    >>> round(interference(new, old, cosines=True).item(), 6)
    0.5
    """
    if cosines:
        new, old = normalize(new, dim=-1), normalize(old, dim=-1)
    met = _size(old @ new.T, norm)
    return met.mean((-2, -1)).sum() if cosines else met.sum()


def preservation(members: Tensor, weight: Tensor, norm: Norm = "squared", cosines: bool = False) -> Tensor:
    """Return how far a group's members overlap a weight's inputs: mean over members of ``|A W^T|^2 / |W|^2``.

    Args:
        members: ``(members, r, width)``.
        weight: ``(n, width)``: the weight, or its most important right singular vectors.
        norm: ``squared`` takes Frobenius norms, ``l1`` sums of absolute values.
        cosines: Measure cosines between rows instead, as `interference` does.
    """
    met = interference(members.flatten(0, 1), weight, norm, cosines)
    return met if cosines else met / (len(members) * _size(weight, norm).sum())


def diversity(members: Tensor, others: Tensor | None = None, norm: Norm = "squared", cosines: bool = False) -> Tensor:
    """Return the mean interference over pairs of a group's members, and of members with others; 0 without a pair.

    Args:
        members: ``(members, r, width)``.
        others: ``(others, r, width)``, which are constant.
        norm: As in `interference`.
        cosines: As in `interference`.

    >>> diversity(torch.eye(4).view(2, 2, 4)).item(), diversity(torch.ones(2, 1, 3)).item()
    (0.0, 9.0)
    """
    pairs = [interference(a, members[:i], norm, cosines) for i, a in enumerate(members) if i]
    count = len(members) * (len(members) - 1) // 2
    if others is not None and len(others):
        pairs += [interference(a, others, norm, cosines) for a in members]
        count += len(members) * len(others)
    return torch.stack(pairs).sum() / count if pairs else members.new_zeros(())


def basis(rows: Tensor) -> Tensor:
    """Return orthonormal columns ``(width, rank)`` that span the rows of a factor ``(r, width)``.

    >>> basis(torch.tensor([[0.0, 2.0], [0.0, 1.0]])).abs().tolist()
    [[0.0], [1.0]]
    """
    u, s, _ = _svd(rows.detach().double().T)
    return u[:, s > SPAN * s.max()]


def overlap(one: Tensor, two: Tensor) -> float:
    """Return ``||Q_1^T Q_2||_F^2 / min(r_1, r_2)`` of two orthonormal bases: 1 if one contains the other, else less.

    Args:
        one: ``(width, r_1)``, from `basis`.
        two: ``(width, r_2)``.

    >>> overlap(torch.eye(4)[:, :2], torch.eye(4)[:, 1:3]), overlap(torch.eye(4)[:, :2], torch.eye(4)[:, :1])
    (0.5, 1.0)
    """
    smaller = min(one.shape[1], two.shape[1])
    return float((one.T @ two).square().sum() / smaller) if smaller else 0.0


def off(rows: Tensor, base: Tensor) -> Tensor:
    """Return rows ``(..., width)`` without their part in the span of orthonormal columns ``(width, k)``.

    >>> off(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0], [1.0]])).tolist()
    [[1.0, 0.0]]
    """
    return rows - (rows @ base) @ base.T


def top_block(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return a weight's ``rank`` first left ``(out, rank)`` and right ``(in, rank)`` singular vectors as columns."""
    u, _, vt = _svd(weight.double())
    return u[:, :rank], vt[:rank].T


def rotation(width: int, seed: int) -> Tensor:
    """Return an orthogonal matrix ``(width, width)`` that depends on its size and seed alone.

    >>> q = rotation(5, seed=1)
    >>> torch.allclose(q.T @ q, torch.eye(5).double()), torch.equal(q, rotation(5, seed=1))
    (True, True)
    """
    rng = torch.Generator().manual_seed(seed)
    return _orthonormal(torch.randn(width, width, generator=rng, dtype=torch.float64))


@final
@dataclass(frozen=True, slots=True)
class Remembered:
    """Input directions that earlier experiences use: a basis of them or, once they are many, of their complement.

    Attributes:
        base: Orthonormal columns ``(width, k)``, at most half of the width.
        free: Whether ``base`` spans the free directions; otherwise the stored ones.
    """

    base: Tensor
    free: bool = False

    def left(self, moment: Tensor) -> Tensor:
        """Return the part of a second moment ``(width, width)`` in free directions."""
        inside = self.base @ (self.base.T @ moment)
        return inside if self.free else moment - inside


def remember(past: Remembered | None, moment: Tensor, threshold: float) -> Remembered:
    """Store the fewest further directions that explain a share of a second moment (DualGPM).

    Liang and Li, "Adaptive plasticity improvement for continual learning", CVPR 2023, as InfLoRA uses it: the share is
    taken of the *squared* singular values of the second moment. Both forms follow one rule, and a basis that outgrows
    half of the width is exchanged for its complement, after the first experience too. (InfLoRA's code keeps one
    direction fewer after the first experience, and then relabels a large basis without exchanging it.)

    Args:
        past: Directions stored so far; None for nothing.
        moment: ``(width, width)`` second moment of the new inputs, in double precision.
        threshold: Share to explain.
    """
    width = len(moment)
    past = past or Remembered(moment.new_zeros(width, 0))
    fresh = _fewest(past.left(moment), float(moment.square().sum()), threshold)
    if past.free:
        gone = _orthonormal(past.base.T @ fresh)
        return Remembered(past.base @ _complement(gone), True)
    grown = _orthonormal(torch.cat([past.base, fresh], 1))
    return Remembered(grown) if grown.shape[1] <= width / 2 else Remembered(_complement(grown), True)


def leading(moment: Tensor, rank: int, past: Remembered | None = None) -> Tensor:
    """Return the ``rank`` leading directions of a second moment outside the stored ones, as rows ``(rank, width)``.

    Rows are zero where no direction is left: a singular value of zero comes with arbitrary vectors, which may lie in
    the stored directions.

    >>> leading(torch.diag(torch.tensor([0.0, 3.0, 5.0])), 3).abs().tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    u, s, _ = _svd(moment if past is None else past.left(moment))
    rows: Tensor = (u * (s > SPAN**1.5 * torch.linalg.matrix_norm(moment))).T[:rank]
    return torch.cat([rows, rows.new_zeros(rank - len(rows), rows.shape[1])])


def _size(x: Tensor, norm: Norm) -> Tensor:
    return x.square() if norm == "squared" else x.abs()


def _fewest(part: Tensor, whole: float, threshold: float) -> Tensor:
    """Return the fewest left singular vectors of ``part`` that raise the explained share of ``whole`` enough."""
    u, s, _ = _svd(part)
    energy = s.square() / max(whole, torch.finfo(s.dtype).tiny)
    explained = torch.cat([energy.new_zeros(1), energy.cumsum(0)]) + (1 - energy.sum())
    return u[:, : int((explained < threshold - 1e-12).sum())]  # rounded shares may never sum to 1


def _svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    return u, s, vt


def _orthonormal(columns: Tensor) -> Tensor:
    """Return an orthonormal basis of independent columns; each has the sign of its column."""
    q, r = torch.linalg.qr(columns)
    signed: Tensor = q * r.diagonal().sign()
    return signed


def _complement(base: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(base, mode="complete")[0]
    return q[:, base.shape[1] :]

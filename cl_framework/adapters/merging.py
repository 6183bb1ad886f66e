"""Merging on ΔW: updates of the weights are combined, and factored again.

Factors are never combined with each other: ``(B1 + B2)(A1 + A2)`` is not ``B1 A1 + B2 A2``, as it contains cross
products. The formulas take stacked changes ``(adapters, ...)`` and return one ``(...)``; the operations of a bank give
them each adapter whole, all sites in one row, as the papers do with models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.base import Rewrite
from cl_framework.adapters.low_rank import Correction, LowRank
from cl_framework.errors import UserError

Combine: TypeAlias = Callable[[Tensor], Tensor]
"""Changes ``(adapters, ...)`` -> one change ``(...)``."""


def average(changes: Tensor) -> Tensor:
    """Return the mean of changes (Wortsman et al., "Model soups", ICML 2022, Sec. 2).

    >>> average(torch.tensor([[1.0, 2.0], [3.0, -2.0]]))
    tensor([2., 0.])
    """
    return changes.mean(0)


def weighted(changes: Tensor, weights: Sequence[float]) -> Tensor:
    """Return ``sum_i weights_i changes_i`` (task arithmetic: Ilharco et al., ICLR 2023, Sec. 2).

    >>> weighted(torch.tensor([[1.0, 2.0], [3.0, -2.0]]), [1, -1])
    tensor([-2.,  4.])
    """
    if len(weights) != len(changes):
        raise UserError(f"{len(changes)} adapters are merged with {len(weights)} weights; give each its own.")
    return torch.einsum("i,i...->...", changes.new_tensor(weights), changes)


def magnitude_max(changes: Tensor) -> Tensor:
    """Return for each entry the change of the largest magnitude (Marczak et al., "MagMax", ECCV 2024, Sec. 3).

    >>> magnitude_max(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
    tensor([-3.,  2.])
    """
    return changes.gather(0, changes.abs().argmax(0, keepdim=True))[0]


def trimmed(changes: Tensor, density: float) -> Tensor:
    """Return changes whose entries are zero but for the share ``density`` that is largest in magnitude in each.

    >>> trimmed(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), 0.5)
    tensor([[ 0., -4.,  0.,  3.]])
    """
    if not 0 < density <= 1:
        raise UserError(f"A density is the share of entries that stays, above 0 and at most 1; found {density}.")
    flat = changes.flatten(1)
    largest = flat.abs().topk(max(1, round(density * flat.shape[1])), 1).indices
    return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest)).reshape(changes.shape)


def ties(changes: Tensor, density: float = 0.2, scale: float = 1.0) -> Tensor:
    """Trim, elect a sign, average changes of that sign (Yadav et al., "TIES-Merging", NeurIPS 2023, Sec. 4, Alg. 1).

    ``gamma = sgn(sum_i t_i)`` over the trimmed changes ``t_i``; an entry is the mean of those ``t_i`` that have this
    sign. Entries whose sum is exactly zero stay at zero; the released code gives them the sign of the majority.

    Args:
        changes: ``(adapters, ...)``.
        density: Share of the entries of each that are kept; the paper's k is 20 percent.
        scale: The paper's lambda; 1 where no validation data choose it.
    """
    kept = trimmed(changes, density)
    agree = kept.sign() == kept.sum(0).sign()
    agree &= kept != 0
    return scale * (kept * agree).sum(0) / agree.sum(0).clamp_min(1)


def dropped(changes: Tensor, share: float, seed: int = 0) -> Tensor:
    """Drop entries at random and rescale the others by ``1 / (1 - share)`` (DARE: Yu et al., ICML 2024, Eq. 2).

    Random numbers come from the seed, on the CPU, so that a merge can be repeated on any device.

    Args:
        changes: ``(adapters, ...)``.
        share: The paper's p, the chance of an entry to be dropped.
        seed: Seed of the random numbers.
    """
    if not 0 <= share < 1:
        raise UserError(f"The share of entries to drop must be at least 0 and below 1; found {share}.")
    rng = torch.rand(changes.shape, generator=torch.Generator().manual_seed(seed))
    return changes * (rng >= share).to(changes) / (1 - share)


def dare(changes: Tensor, share: float = 0.9, seed: int = 0, how: Combine = average) -> Tensor:
    """Drop entries of each change, rescale, and combine (Yu et al., "Language models are super Mario", ICML 2024).

    Args:
        changes: ``(adapters, ...)``.
        share: Chance of an entry to be dropped; the paper finds 0.9 and more harmless.
        seed: Seed of the random numbers.
        how: How to combine them then; the paper puts `weighted` and `ties` here.
    """
    return how(dropped(changes, share, seed))


def refactored(change: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, float]:
    """Return factors of a matrix, from its singular values in float64; the best there are of their rank.

    Args:
        change: ``(width_out, width_in)``.
        rank: Of the factors; None takes as many as the matrix has, to its precision.

    Returns:
        ``a`` ``(rank, width_in)`` and ``b`` ``(width_out, rank)``, alike in norm, and the share of the squared norm of
        the matrix that ``b @ a`` lacks.
    """
    if rank is not None and rank < 1:
        raise UserError(f"A merged adapter needs a rank of at least 1; found {rank}.")
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    noise = max(change.shape) * torch.finfo(change.dtype).eps * s[0]
    count = max(1, int((s > noise).sum())) if rank is None else min(rank, len(s))
    root, energy = s[:count].sqrt(), s.square()
    lost = float(energy[count:].sum() / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny))
    return (root[:, None] * vh[:count]).to(change), (u[:, :count] * root).to(change), lost


@torch.no_grad()
def merge_adapters(
    bank: AdapterBank, names: Sequence[str], how: Combine, into: str, rank: int | None = None
) -> dict[str, float]:
    """Make a new adapter by merging the changes of others, which stay unchanged.

    Args:
        bank: The bank of the adapters.
        names: The adapters to merge.
        how: `average`, `magnitude_max`, or another with its settings: ``partial(ties, density=0.5)``.
        into: Name of the new one.
        rank: Largest rank at each site; None takes the rank that loses nothing.

    Returns:
        By site the share of the squared norm that the rank lost; empty for adapters without factors, such as `Full`.

    Raises:
        UserError: If there is nothing to merge, an adapter is more than matrices added to weights, or a rank is asked
            of adapters without factors.
        ValueError: If the new name is taken.
    """
    if rank is not None and bank.adapter.linear:
        raise UserError(
            f"A {type(bank.adapter).__name__} adapter keeps whole matrices and has no rank; found rank={rank}: "
            "leave it out, or choose LoRA."
        )
    changes = [_changes(bank, name) for name in _existing(bank, names)]
    row = how(torch.stack([torch.cat([d.flatten() for d in each.values()]) for each in changes]))
    pieces = torch.split(row, [d.numel() for d in changes[0].values()])
    combined = {key: piece.view_as(changes[0][key]) for key, piece in zip(changes[0], pieces, strict=True)}
    if bank.adapter.linear:
        bank.hold(into, combined, names)
        return {}
    parts = {key: refactored(d, rank) for key, d in combined.items()}
    _hold(bank, into, {key: (a, b) for key, (a, b, _) in parts.items()}, names)
    return {key: lost for key, (_, _, lost) in parts.items()}


@torch.no_grad()
def combined(bank: AdapterBank, weights: Mapping[str, float], into: str) -> None:
    """Make a new adapter that is a sum of others, exactly: ``{"a": 1, "b": -1}`` subtracts, ``{"a": -1}`` negates.

    Factors are put side by side, so that ranks add up. The others stay unchanged.

    Raises:
        UserError: If there is nothing to combine, or an adapter is more than matrices added to weights.
        ValueError: If the new name is taken.
    """
    names = _existing(bank, list(weights))
    if bank.adapter.linear:
        merge_adapters(bank, names, lambda changes: weighted(changes, list(weights.values())), into)
        return
    pairs = {name: {k: _factors(bank, name, k, r) for k, r in _rewrites(bank, name).items()} for name in names}
    sites = pairs[names[0]]
    a = {key: torch.cat([pairs[n][key][0] for n in names]) for key in sites}
    b = {key: torch.cat([weights[n] * pairs[n][key][1] for n in names], 1) for key in sites}
    _hold(bank, into, {key: (a[key], b[key]) for key in sites}, names)


def _hold(bank: AdapterBank, into: str, factors: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> None:
    bank.hold(into, {f"{key}.{n}": x for key, ab in factors.items() for n, x in zip("ab", ab, strict=True)}, names)
    for rewrite in _rewrites(bank, into).values():
        assert isinstance(rewrite, LowRank)
        rewrite.b.div_(rewrite.scale)


def _existing(bank: AdapterBank, names: Sequence[str]) -> list[str]:
    if not names or any(name not in bank for name in names):
        raise UserError(f"Cannot merge {list(names)}: the bank holds {list(bank)}; name some of these.")
    return list(names)


def _rewrites(bank: AdapterBank, name: str) -> dict[str, Rewrite]:
    return dict(bank.rewrites[name].named_children())  # type: ignore[arg-type]


def _changes(bank: AdapterBank, name: str) -> dict[str, Tensor]:
    """Return what an adapter adds, by site; by tensor where its parameters are what it adds."""
    if bank.adapter.linear:
        return {key: p.detach() for key, p in bank.rewrites[name].named_parameters()}
    return {key: _delta(bank, name, key, rewrite) for key, rewrite in _rewrites(bank, name).items()}


def _delta(bank: AdapterBank, name: str, key: str, rewrite: Rewrite) -> Tensor:
    if not isinstance(rewrite, Correction):
        raise UserError(
            f"What {name!r} does at {key} is more than a matrix added to a weight, so that adapters of "
            f"{type(bank.adapter).__name__} as configured cannot be merged; choose LoRA."
        )
    return rewrite.delta().detach()


def _factors(bank: AdapterBank, name: str, key: str, rewrite: Rewrite) -> tuple[Tensor, Tensor]:
    if isinstance(rewrite, LowRank):
        return rewrite.a.detach(), rewrite.scale * rewrite.b.detach()
    a, b, _ = refactored(_delta(bank, name, key, rewrite))
    return a, b


def pull(params: Iterable[nn.Parameter], toward: Iterable[Tensor], by: float) -> None:
    """Move parameters a share of the way towards other values: ``(1 - by) p + by q``; no values, no move."""
    for p, q in zip(params, toward):  # noqa: B905  # without predecessors there is nothing to move towards
        p.detach().lerp_(q, by)

"""Low-rank updates of linear maps as matrices: factors, sums, and the weights they update."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.base import Rewrite
from cl_framework.backbones.base import Site
from cl_framework.errors import UserError
from cl_framework.functional.subspaces import basis, off, overlap

Side: TypeAlias = Literal["input", "output", "both"]


@runtime_checkable
class Correction(Protocol):
    """A rewrite that adds a matrix to a linear map: ``out = W x + delta x``."""

    def delta(self) -> Tensor:
        """Return the update of the weight ``(width_out, width_in)``, differentiable in the rewrite's parameters."""


class LowRank(Rewrite, ABC):
    """An update ``scale * b @ a``. Rows of ``a`` are directions of the input, columns of ``b`` of the output.

    A base and no protocol: from Python 3.12 ``isinstance`` looks a protocol's members up without ``__getattr__``, which
    is where modules keep their parameters.

    Attributes:
        a: ``(rank, width_in)``.
        b: ``(width_out, rank)``.
        scale: Fixed factor.
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float

    def delta(self) -> Tensor:
        """Return the update of the weight ``(width_out, width_in)``."""
        return self.scale * self.b @ self.a

    @torch.no_grad()
    def rescale(self, by: float) -> None:
        """Multiply the update by a number, in one factor only: in both a sign would cancel."""
        self.b.mul_(by)


def factors(bank: AdapterBank, name: str) -> dict[str, LowRank]:
    """Return the updates of one adapter by site.

    Raises:
        TypeError: If its rewrites have no factors; strategies say beforehand what they need with `Strategy.rewrites`.
    """
    by_site: dict[str, LowRank] = {}
    for site, rewrite in bank.rewrites[name].named_children():
        if not isinstance(rewrite, LowRank):
            raise TypeError(f"Adapter {name!r} is made of {type(rewrite).__name__}, which has no factors.")
        by_site[site] = rewrite
    return by_site


def frozen_weight(site: Site) -> Tensor:
    """Return the weight that a site's updates are added to, ``(width_out, width_in)``; a view, never to be written.

    Raises:
        UserError: If the module at the site is not a linear map.
    """
    if not isinstance(site.module, nn.Linear):
        raise UserError(f"A {site.role} site is a {type(site.module).__name__} and has no weight; choose linear maps.")
    weight = site.module.weight.detach()
    return weight if site.columns is None else weight[site.columns]


def total(bank: AdapterBank, names: Iterable[str]) -> dict[str, Tensor]:
    """Return by site the sum of several adapters' updates, detached."""
    sums: dict[str, Tensor] = {}
    for name in names:
        for site, rewrite in factors(bank, name).items():
            delta = rewrite.delta().detach()
            sums[site] = sums[site] + delta if site in sums else delta
    return sums


def directions(rewrite: LowRank, side: Side) -> list[Tensor]:
    """Return as rows the directions that an update reads (``input``), writes (``output``), or ``both``."""
    return of_side(side, rewrite.a, rewrite.b.T)


def of_side(side: Side, read: Tensor, written: Tensor) -> list[Tensor]:
    """Return of two matrices the one that ``side`` names, or both."""
    return {"input": [read], "output": [written], "both": [read, written]}[side]


def past_directions(bank: AdapterBank, names: Iterable[str], side: Side) -> dict[str, list[Tensor]]:
    """Return by site and side asked for the directions of several adapters, stacked ``(adapters, rank, width)``."""
    by_site: dict[str, list[list[Tensor]]] = {}
    for name in names:
        for site, rewrite in factors(bank, name).items():
            by_site.setdefault(site, []).append([d.detach() for d in directions(rewrite, side)])
    return {site: [torch.stack(each) for each in zip(*rows, strict=True)] for site, rows in by_site.items()}


def kept_off(
    corrections: Mapping[str, LowRank], bases: Mapping[str, tuple[Tensor, Tensor]], gradients: bool = False
) -> Callable[[object], None]:
    """Return a projection that keeps updates off some directions, for a plan to call with the model.

    The factors themselves, as an ``after_step``: ``delta`` is orthogonal to both bases to rounding, with any optimiser.
    Or their gradients, as an ``edit_gradients``: factors that start orthogonal stay so where a step is a sum of
    gradients and factors, as of SGD with momentum and weight decay; Adam divides every entry by a number of its own.

    Args:
        corrections: By site.
        bases: By site orthonormal columns: directions that ``b`` may not write ``(width_out, k)`` and ``a`` not read
            ``(width_in, k)``.
        gradients: Whether to project gradients instead of factors.
    """

    @torch.no_grad()
    def project(_: object) -> None:
        for site, (written, read) in bases.items():
            a, b = (p.grad if gradients else p for p in (corrections[site].a, corrections[site].b))
            if a is not None:
                a.copy_(off(a, read))
            if b is not None:
                b.copy_(off(b.T, written).T)

    return project


def overlaps(bank: AdapterBank, newest: str | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """Measure the overlap of the input and output subspaces of adapters.

    ``||Q_i^T Q_j||_F^2 / min(r_i, r_j)`` of orthonormal bases, the mean over sites: 1 where one contains the other.
    Adapters without factors, and the edits of forget requests, are left out.

    Args:
        bank: The adapters.
        newest: Measure only pairs with this one.

    Returns:
        Adapter -> each earlier one -> overlap of the inputs and of the outputs.
    """
    able = [n for n in bank.learned if all(isinstance(r, LowRank) for r in bank.rewrites[n].children())]
    pairs = [(old, new) for old, new in combinations(able, 2) if newest is None or newest in (old, new)]
    bases = {
        name: [[basis(d) for d in directions(r, "both")] for r in factors(bank, name).values()]
        for name in {n for pair in pairs for n in pair}
    }
    by_pair: dict[str, dict[str, tuple[float, float]]] = {}
    for old, new in pairs:
        met = [[overlap(p, q) for p, q in zip(*site, strict=True)] for site in zip(bases[old], bases[new], strict=True)]
        read, written = (sum(each) / len(met) for each in zip(*met, strict=True))
        by_pair.setdefault(new, {})[old] = (read, written)
    return by_pair

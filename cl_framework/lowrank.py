"""Low-rank corrections of linear maps, seen as the matrices they are: their factors, their sum, what they correct."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from cl_framework.adapter import AdapterBank
from cl_framework.backbone import Site
from cl_framework.errors import UserError

Side: TypeAlias = Literal["input", "output", "both"]


@runtime_checkable
class Correction(Protocol):
    """A rewrite that adds a matrix to a linear map: ``out = W x + delta x``."""

    def delta(self) -> Tensor:
        """Return what is added to the weight, ``(width_out, width_in)``, differentiable in the rewrite's parameters."""


@runtime_checkable
class LowRank(Correction, Protocol):
    """A correction ``scale * b @ a``. Rows of ``a`` are directions of the input, columns of ``b`` of the output.

    Attributes:
        a: ``(rank, width_in)``.
        b: ``(width_out, rank)``.
        scale: Fixed factor.
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float


def factors(bank: AdapterBank, name: str) -> dict[str, LowRank]:
    """Return the corrections of one adapter by site.

    Raises:
        TypeError: If its rewrites have no factors; strategies say beforehand what they need with `Strategy.rewrites`.
    """
    found = dict(bank.rewrites[name].named_children())
    if other := next((r for r in found.values() if not isinstance(r, LowRank)), None):
        raise TypeError(f"Adapter {name!r} is made of {type(other).__name__}, which has no factors.")
    return found  # type: ignore[return-value]


def frozen_weight(site: Site) -> Tensor:
    """Return the weight that a site's corrections are added to, ``(width_out, width_in)``; a view, never to be written.

    Raises:
        UserError: If the module at the site is not a linear map.
    """
    if not isinstance(site.module, nn.Linear):
        raise UserError(f"A {site.role} site is a {type(site.module).__name__} and has no weight; choose linear maps.")
    weight = site.module.weight.detach()
    return weight if site.columns is None else weight[site.columns]


def total(bank: AdapterBank, names: Iterable[str]) -> dict[str, Tensor]:
    """Return by site the sum of what several adapters add to its weight, detached."""
    sums: dict[str, Tensor] = {}
    for name in names:
        for site, rewrite in factors(bank, name).items():
            delta = rewrite.delta().detach()
            sums[site] = sums[site] + delta if site in sums else delta
    return sums


def directions(rewrite: LowRank, side: Side) -> list[Tensor]:
    """Return as rows what a correction reads (``input``), what it writes (``output``), or ``both``."""
    sides = [rewrite.a, rewrite.b.T]
    return sides if side == "both" else sides[:1] if side == "input" else sides[1:]


def past_directions(bank: AdapterBank, names: Iterable[str], side: Side) -> dict[str, list[Tensor]]:
    """Return by site and side asked for the directions of several adapters, stacked ``(adapters, rank, width)``."""
    found: dict[str, list[list[Tensor]]] = {}
    for name in names:
        for site, rewrite in factors(bank, name).items():
            found.setdefault(site, []).append([d.detach() for d in directions(rewrite, side)])
    return {site: [torch.stack(each) for each in zip(*rows, strict=True)] for site, rows in found.items()}

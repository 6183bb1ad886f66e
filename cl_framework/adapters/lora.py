"""Low-rank adaptation of linear maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.adapters.base import Adapter, Rewrite
from cl_framework.adapters.batched import BatchedRewrite
from cl_framework.adapters.low_rank import LowRank
from cl_framework.backbones.base import Role, Site
from cl_framework.errors import UserError


@final
class LoRA(Adapter):
    """Adds a low-rank update to chosen linear maps; choose it for updates that can be merged or projected.

    ``out = W x + (alpha / rank) B A x`` on chosen linear maps (Hu et al., ICLR 2022, Sec. 4.1).

    Roles name the maps, also inside a fused query-key-value projection: ``roles: [key, value]`` leaves queries
    unchanged.

    Args:
        rank: Rank of the update.
        alpha: Numerator of the scale; None means ``rank``, a scale of one.
        roles: Which maps to update.
    """

    def __init__(self, rank: int = 8, alpha: float | None = None, roles: Sequence[Role] = ("query", "value")) -> None:
        """Store rank, scale and roles."""
        if rank < 1:
            raise UserError(f"LoRA's rank must be at least 1; found {rank}.")
        self.rank, self.scale, self.roles = rank, (rank if alpha is None else alpha) / rank, tuple(roles)

    def build(self, site: Site) -> Rewrite | None:
        """Update a linear map of the chosen roles; a block's branch is none."""
        if site.role not in self.roles or site.role == "block_mlp":
            return None
        return Factors(site.width_in, site.width_out, self.rank, self.scale)

    def restore(self, site: Site, state: Mapping[str, Tensor]) -> Rewrite | None:
        """Build the update with the stored rank, which a merge may have changed."""
        if "a" not in state:
            return self.build(site)
        return Factors(site.width_in, site.width_out, len(state["a"]), self.scale)


@final
class Factors(BatchedRewrite, LowRank):
    """``out + scale * b a given``, with ``b`` zero at the start.

    Attributes:
        a: ``(rank, width_in)``.
        b: ``(width_out, rank)``.
        scale: Fixed factor.
    """

    def __init__(self, width_in: int, width_out: int, rank: int, scale: float = 1.0) -> None:
        """Draw ``a``."""
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, width_in))
        self.b = nn.Parameter(torch.zeros(width_out, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)
        self.scale = scale

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Add the update."""
        return out + self.scale * (given @ self.a.T @ self.b.T)

    def batched(self, given: Tensor, out: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Add to each part its own update."""
        return out + self.scale * torch.bmm(torch.bmm(given, weights["a"].mT), weights["b"].mT)

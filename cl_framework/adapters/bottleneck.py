"""The AdaptFormer adapter: a bottleneck beside a block's MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.adapters.base import Adapter, Rewrite
from cl_framework.adapters.batched import BatchedRewrite
from cl_framework.backbones.base import Site


@final
class Bottleneck(Adapter):
    """Adds a small network beside each block's MLP; choose it by default, as most methods do.

    ``out = h + MLP(LN(h)) + scale * up(drop(relu(down(h))))`` in every block (Chen et al., NeurIPS 2022, Eq. 3).

    ``h`` is the residual stream before the norm. ``up`` starts at zero, so a new adapter changes nothing.

    Args:
        width: Size of the bottleneck.
        scale: Fixed factor on the branch; it scales gradients too.
        dropout: Drop probability in the bottleneck while training.
    """

    def __init__(self, width: int = 64, scale: float = 0.1, dropout: float = 0.1) -> None:
        """Store the shape of the branch."""
        self.width, self.scale, self.dropout = width, scale, dropout

    def build(self, site: Site) -> Rewrite | None:
        """Build a branch beside a block's MLP; no rewrite at other sites."""
        return _Branch(site, self) if site.role == "block_mlp" else None


@final
class _Branch(BatchedRewrite):
    def __init__(self, site: Site, spec: Bottleneck) -> None:
        super().__init__()
        self.down = nn.Linear(site.width_in, spec.width)  # torch's own start is Kaiming-uniform with a = sqrt(5)
        self.up = nn.Linear(spec.width, site.width_out)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.scale, self.dropout = spec.scale, nn.Dropout(spec.dropout)

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        bottleneck = self.dropout(torch.relu(self.down(given)))
        branch: Tensor = self.up(bottleneck)
        return out + self.scale * branch

    def batched(self, given: Tensor, out: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        down, up = (weights[f"{n}.weight"].mT for n in ("down", "up"))
        bottleneck = torch.baddbmm(weights["down.bias"][:, None], given, down).relu_()
        return out + self.scale * torch.baddbmm(weights["up.bias"][:, None], bottleneck, up)

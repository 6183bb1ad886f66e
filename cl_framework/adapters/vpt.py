"""Visual prompt tuning: learned tokens beside a sample's own."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from cl_framework.adapters.base import Adapter, Rewrite
from cl_framework.backbones.base import Site
from cl_framework.errors import UserError


@final
class VPT(Adapter):
    """Adds learned tokens to the input of the first block or of all; choose it for few parameters.

    Tokens after the class token and the patches (Jia et al., ECCV 2022, Sec. 3.2).

    Deep: every block gets ``tokens`` of its own, removed after it. Shallow: the first block gets them, and they pass
        through all blocks and are removed after the last. Attention has no order, so that tokens at the end equal the
        paper's behind the class token. Features are pooled as before.

    Even at zero, a new adapter changes features: the norm before attention maps a zero token to its bias, which is
    attended to. With ``start="zero_as_released"``, as APER has it, the tokens of a block are equal, get equal gradients
    and remain one token of more weight: APER's VPT figures (88.91 deep, 88.23 shallow, average on CIFAR-100 B0-Inc5 in
    its logs) come from that. ``start="uniform"`` is the VPT paper's own.

    Args:
        tokens: How many; 5 in APER's logs, 30 on ImageNet-R in PILOT.
        deep: A set of tokens for every block, or one for all.
        start: ``uniform`` within ``sqrt(6 / (2 width))``, Xavier's bound, or ``zero_as_released`` by APER.
    """

    needs = frozenset({"block_in", "block_out"})
    neutral = False

    def __init__(
        self, tokens: int = 5, deep: bool = True, start: Literal["uniform", "zero_as_released"] = "uniform"
    ) -> None:
        """Store number, depth and start.

        Raises:
            UserError: If there are no tokens, or no such start.
        """
        if tokens < 1:
            raise UserError(f"VPT needs at least one token; found {tokens}.")
        if start not in ("uniform", "zero_as_released"):
            raise UserError(f"VPT starts uniform or zero_as_released; found {start!r}.")
        self.tokens, self.deep, self.start = tokens, deep, start

    def build(self, site: Site) -> Rewrite | None:
        """Add tokens before a block and remove them after it: every block, or the first and the last."""
        if site.role == "block_in" and (self.deep or site.block == 0):
            return _Tokens(self.tokens, site.width_out, self.start == "uniform")
        if site.role == "block_out" and (self.deep or site.block == site.blocks - 1):
            return _Cut(self.tokens)
        return None


@final
class _Tokens(Rewrite):
    def __init__(self, tokens: int, width: int, uniform: bool) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(tokens, width))
        if uniform:
            nn.init.uniform_(self.tokens, -((3 / width) ** 0.5), (3 / width) ** 0.5)

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        return torch.cat([out, self.tokens.expand(len(out), -1, -1)], 1)


@final
class _Cut(Rewrite):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        return out[:, : -self.tokens]

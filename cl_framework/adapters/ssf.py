"""SSF: scale and shift the output of linear maps, norms and the patch embedding."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from cl_framework.adapters.base import Adapter, Rewrite
from cl_framework.backbones.base import Role, Site
from cl_framework.errors import UserError

_ROLES: tuple[Role, ...] = (
    "query", "key", "value", "attention_out", "mlp_in", "mlp_out", "linear", "norm", "embedding",
)  # fmt: skip


@final
class SSF(Adapter):
    """Scales and shifts the output of each layer; choose it for few parameters and no cost when folded in.

    ``out = gamma * out + delta``, one factor and one shift per channel (Lian et al., NeurIPS 2022, Sec. 3.2).

    It acts on the output of every linear map, every norm and the patch embedding, so that a trained one could be folded
    into the weights before it. With ``start="identity"`` a new adapter changes nothing. The published figures of APER
    (87.78 average on CIFAR-100 B0-Inc5) were made with the released start, ``gamma ~ N(1, 0.02)`` and
    ``delta ~ N(0, 0.02)`` (standard deviations), which changes features a little before any training.

    Args:
        start: ``identity``, or ``released``.
    """

    def __init__(self, start: Literal["identity", "released"] = "identity") -> None:
        """Store the start.

        Raises:
            UserError: If there is no such start.
        """
        if start not in ("identity", "released"):
            raise UserError(f"SSF starts as identity or as released; found {start!r}.")
        self.start, self.neutral = start, start == "identity"

    def build(self, site: Site) -> Rewrite | None:
        """Scale and shift the output of a map, a norm or the embedding; no rewrite of the token stream."""
        return _ScaleShift(site.width_out, self.start == "released") if site.role in _ROLES else None


@final
class _ScaleShift(Rewrite):
    def __init__(self, width: int, released: bool) -> None:
        super().__init__()
        self.gamma, self.delta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        if released:
            nn.init.normal_(self.gamma, 1.0, 0.02)
            nn.init.normal_(self.delta, 0.0, 0.02)

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        return self.gamma * out + self.delta

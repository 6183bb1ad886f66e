"""Frozen feature extractors and the named sites where adapters attach."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cl_framework.settings.recorded import Recorded

Role: TypeAlias = Literal[
    "query", "key", "value", "attention_out", "mlp_in", "mlp_out", "block_mlp",
    "linear", "norm", "embedding", "attention_in", "block_in", "block_out", "tokens_out",
]  # fmt: skip
"""What a place does.

Linear maps: ``query``, ``key``, ``value``, ``attention_out``, ``mlp_in``, ``mlp_out``, and ``linear`` for any other one
that a pass goes through. ``norm`` is any layer norm, ``embedding`` what makes tokens of the input, before the class
token and positions. ``block_mlp`` runs beside a block's MLP and reads the residual before its norm.

The token stream ``(n, tokens, width)``, to whose end tokens may be added as long as they are gone before it is pooled:
``block_in`` is a block's input, ``block_out`` its output, ``tokens_out`` what is pooled (after the final
norm), ``attention_in`` the input of attention. A token added at ``attention_in`` and cut off at ``attention_out``,
whose key and value are replaced in between, is a prefix: attended to, without a query of its own.
"""

LINEAR_ROLES: Final = ("query", "key", "value", "attention_out", "mlp_in", "mlp_out", "linear")
"""Linear maps."""

STREAM_ROLES: Final = ("attention_in", "block_in", "block_out", "tokens_out")
"""The token stream."""


@dataclass(frozen=True, slots=True)
class Site:
    """A named place where an adapter may rewrite activations.

    Attributes:
        role: What the place does in a transformer block; adapters choose by role, never by name patterns.
        module: The module whose output is rewritten.
        width_in: Width of the rewrite's input.
        width_out: Width of its output.
        reads: The module whose input the rewrite reads, if not ``module`` itself.
        columns: The part of the output that belongs to this site, as in a fused query-key-value map.
        before: The module's input is rewritten, not its output.
        block: Which block it lies in, from 0; None outside the blocks.
        blocks: How many blocks there are.
        position: What the backbone adds to its class token for its place ``(width,)``; only the token stream of a
            backbone that has such a token says so.
    """

    role: Role
    module: nn.Module
    width_in: int
    width_out: int
    reads: nn.Module | None = None
    columns: slice | None = None
    before: bool = False
    block: int | None = None
    blocks: int = 0
    position: Tensor | None = None


class Backbone(Recorded, nn.Module, ABC):
    """A frozen network: features out, sites where adapters may attach.

    Attributes:
        width: Size of a feature.
        name: Its name in manifests.
        smooth: Whether inputs are numbers with gradients that noise can replace, as pictures are.
        divisible: Whether modules can return a recorded output instead of computing it; not where they are compiled.
        inputs: Preparation of inputs in words; ``clf plan`` prints it.
        notes: Choices made in loading the weights, a sentence each; printed at the start of a run.
    """

    width: int
    name: str
    smooth: bool = True
    divisible: bool = True
    inputs: str = ""
    notes: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to features ``(n, width)``."""

    @abstractmethod
    def sites(self) -> Mapping[str, Site]:
        """Name the places an adapter may rewrite; names hold no dots."""

    def check(self, x: Tensor) -> None:
        """Refuse inputs of a kind or shape that it cannot read, at no cost; also called before a run.

        Raises:
            UserError: If they are.
        """

    def check_values(self, x: Tensor) -> None:
        """Refuse inputs with values out of range; reads them, before a frozen pass.

        Raises:
            UserError: If they are.
        """

    def lengths(self, x: Tensor) -> Tensor:
        """Return the length of each input ``(n,)`` int64, where the length of a pass depends on it.

        A pass holds inputs of one length: in frozen passes a feature then depends on its own input alone, and in
        training a long input does not slow the others. Pictures all have one length.
        """
        return torch.zeros(len(x), dtype=torch.int64)

    def classifier(self) -> Mapping[str, Tensor] | None:
        """Return the classifier it was pre-trained with, if there is one.

        ``weight`` ``(classes, width)`` and either ``bias`` ``(classes,)``, for ``w . z + b``, or a scalar ``sigma``,
        for ``sigma cos(w, z)``.
        """
        return None

    def blocks(self) -> Sequence[nn.Module]:
        """Return the blocks of a pass in order; none if it has no such blocks."""
        return ()

    def attend(self, how: Literal["fused", "plain"]) -> bool:
        """Compute attention in one kernel or product by product; False if there is no choice. Results stay the same."""
        choosing = [m for m in self.modules() if isinstance(getattr(m, "fused_attn", None), bool)]  # as timm calls it
        for module in choosing:
            module.fused_attn = how == "fused"  # type: ignore[assignment]
        return bool(choosing)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: frozen means dropout and running statistics too."""
        return super().train(False)

    def digest(self) -> str:
        """Return the SHA-256 of all weights, by name."""
        sha = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()


def put_back(out: Tensor, parts: Iterable[tuple[slice, Tensor]]) -> Tensor:
    """Return ``out`` ``(..., width)`` with some of its columns replaced, in their order.

    >>> put_back(torch.zeros(1, 3), [(slice(1, 2), torch.ones(1, 1))])
    tensor([[0., 1., 0.]])
    """
    pieces, at = [], 0
    for where, part in parts:
        pieces += [out[..., at : where.start], part]
        at = where.stop
    return torch.cat([*pieces, out[..., at:]], -1)

"""Full fine-tuning as an adapter: an update beside every weight of the frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, layer_norm, linear

from cl_framework.adapters.base import Adapter, Rewrite
from cl_framework.backbones.base import LINEAR_ROLES, Site

Tuned: TypeAlias = Literal[
    "query", "key", "value", "attention_out", "mlp_in", "mlp_out", "linear", "norm", "embedding"
]  # fmt: skip


@final
class Full(Adapter):
    """Updates every weight as fine-tuning would; choose it when small adapters learn too little.

    ``(W + dW) x + (b + db)`` at every linear map, scale and shift of every layer norm, and the patch embedding.

    All updates start at zero, so that a new adapter changes nothing. Gradients are those of fine-tuning, and
    so are the steps of any optimiser without weight decay, which here pulls towards the pre-trained weights instead of
    zero. Class token, positions, and embeddings other than one convolution of patches stay as they are.

    Args:
        roles: Roles to tune; None tunes all. An adapter is as large as the weights it tunes.
    """

    linear = True

    def __init__(self, roles: Sequence[Tuned] | None = None) -> None:
        """Store the roles."""
        self.roles = None if roles is None else tuple(roles)

    def build(self, site: Site) -> Rewrite | None:
        """Update a map, a norm, or a patch embedding of the chosen roles; no rewrite at other sites."""
        if self.roles is not None and site.role not in self.roles:
            return None
        if site.role in LINEAR_ROLES:
            return _Map(site)
        if site.role == "norm" and isinstance(site.module, nn.LayerNorm) and site.module.elementwise_affine:
            return _Norm(site.module)
        patches = getattr(site.module, "proj", None)
        if site.role == "embedding" and isinstance(patches, nn.Conv2d):
            whole = {id(p) for p in site.module.parameters()} == {id(p) for p in patches.parameters()}
            return _Patches(patches) if whole else None
        return None


class _Correction(Rewrite):
    """Changes of a weight and, where the module has one, of a bias."""

    def __init__(self, shape: Sequence[int], bias: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape))
        self.bias = None if bias is None else nn.Parameter(torch.zeros(bias))

    @torch.no_grad()
    def rescale(self, by: float) -> None:
        """Multiply the update by a number."""
        for p in self.parameters():
            p.mul_(by)


@final
class _Map(_Correction):
    def __init__(self, site: Site) -> None:
        biased = getattr(site.module, "bias", None) is not None
        super().__init__((site.width_out, site.width_in), site.width_out if biased else None)

    def delta(self) -> Tensor:
        """Return the update of the weight."""
        return self.weight

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        return out + linear(given, self.weight, self.bias)


@final
class _Norm(_Correction):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm.normalized_shape, norm.normalized_shape[-1])
        self.shape, self.eps = norm.normalized_shape, norm.eps

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        return out + layer_norm(given, self.shape, self.weight, self.bias, self.eps)


@final
class _Patches(_Correction):
    def __init__(self, patches: nn.Conv2d) -> None:
        super().__init__(patches.weight.shape, None if patches.bias is None else patches.out_channels)
        self.stride = cast(tuple[int, int], patches.stride)
        self.padding = cast(tuple[int, int], patches.padding)

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        tokens = conv2d(given, self.weight, self.bias, self.stride, self.padding)
        return out + tokens.flatten(2).transpose(1, 2).reshape(out.shape)

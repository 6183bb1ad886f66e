"""``glyph_vit``: the embedded default, a small ViT pre-trained on drawings of characters.

A convolutional stem reduces a 32 x 32 picture to 16 tokens (Xiao et al., "Early convolutions help transformers see
better", NeurIPS 2021), six timm blocks of width 160 follow. `scripts/pretrain_glyph_vit.py` made the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from safetensors.torch import load
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cl_framework.backbones.base import Backbone, Site
from cl_framework.backbones.timm_sites import block_list, transformer_sites
from cl_framework.errors import UserError
from cl_framework.functional.picture_check import check_layout, check_pixels

FILES = Path(__file__).parent
WIDTH, DEPTH, HEADS, SIDE = 160, 6, 5, 32


@final
class ConvStem(nn.Module):
    """Four 3 x 3 convolutions and a projection: ``(n, 3, 32, 32)`` to tokens ``(n, 16, width)``."""

    def __init__(self, embed_dim: int, **_: Any) -> None:
        """Build the stem; timm also passes the image size and patch size, which are fixed here."""
        super().__init__()
        self.num_patches = (SIDE // 8) ** 2
        self.grid_size = (SIDE // 8, SIDE // 8)
        layers: list[nn.Module] = []
        for given, out, stride in ((3, 32, 2), (32, 64, 1), (64, 128, 2), (128, 192, 2)):
            layers += [nn.Conv2d(given, out, 3, stride, 1), nn.GELU()]
        self.net = nn.Sequential(*layers)
        self.proj = nn.Conv2d(192, embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens in raster order."""
        tokens: Tensor = self.proj(self.net(x - 0.5))
        return tokens.flatten(2).transpose(1, 2)


def glyph_vit() -> VisionTransformer:
    """Build the architecture with random weights (2.2 M parameters)."""
    body = VisionTransformer(
        img_size=SIDE,
        patch_size=8,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        embed_layer=ConvStem,
    )
    for block in body.blocks:
        block.attn.fused_attn = False  # type: ignore[union-attr]  # at 17 tokens the fused kernel's backward costs half of a CPU training step
    return body


@final
class GlyphViT(Backbone):
    """The embedded small vision transformer, 32 x 32 pixels; choose it to try things without a download.

    Features have width 160; the weights are in the package.

    Args:
        pretrained: False leaves random weights, for comparisons only.

    Raises:
        UserError: If the weight file is damaged.
    """

    def __init__(self, pretrained: bool = True) -> None:
        """Load the weights, check their hash, and freeze."""
        super().__init__()
        self.name, self.width = "glyph_vit" if pretrained else "glyph_vit (random)", WIDTH
        self.body, self.pretrained = glyph_vit(), pretrained
        self.inputs = "pixels: mean 0.5, std 1; part of the embedded network"
        if pretrained:
            self.body.load_state_dict(checked_weights("glyph_vit"))
        self.body.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(n, 160)`` of pictures ``(n, 3, 32, 32)`` between 0 and 1."""
        self.check(x)
        features: Tensor = self.body(x)
        return features

    def check(self, x: Tensor) -> None:
        """Refuse sentences, and pictures of another layout, type or size."""
        check_layout("glyph_vit", x, "set `data.scenario.transform` to Plain with size 32", SIDE)

    def check_values(self, x: Tensor) -> None:
        """Refuse what is not in [0, 1]."""
        check_pixels("glyph_vit", x)

    def sites(self) -> Mapping[str, Site]:
        """Return the sites of its six blocks."""
        return transformer_sites(self.body)

    def blocks(self) -> Sequence[nn.Module]:
        """Return its six blocks."""
        return block_list(self.body)

    def classifier(self) -> Mapping[str, Tensor] | None:
        """Return the cosine head over the 2,102 characters of pre-training, which `glyphs:known=true` draws.

        Raises:
            UserError: If its file is damaged.
        """
        if not self.pretrained:
            return None
        head = checked_weights("glyph_vit_head")
        return {"weight": head["weight"], "sigma": head["scale"]}


def checked_weights(name: str) -> dict[str, Tensor]:
    """Read a weight file of this package after comparing its hash with the record beside it."""
    path = FILES / f"{name}.safetensors"
    content = path.read_bytes()
    record = json.loads((FILES / "glyph_vit.json").read_text())
    if hashlib.sha256(content).hexdigest() != record[name]:
        raise UserError(f"{path} is damaged: its hash is not the one recorded beside it. Install the package again.")
    return load(content)

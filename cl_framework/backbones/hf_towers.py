"""Which network of a transformers folder is loaded: the encoder, one tower of two, or the encoder beside a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import nn

from cl_framework.backbones.hf_modules import dense_layers
from cl_framework.errors import UserError

Reads: TypeAlias = Literal["pictures", "sentences"]
Pooling: TypeAlias = Literal["mean", "cls", "last", "own"]
"""How tokens become a feature: their mean, the first, the last that is no padding, or by a module that pools."""
T5 = ("t5", "mt5", "umt5")


class Tower(NamedTuple):
    """What is loaded for a folder, and how.

    Attributes:
        kind: The class of transformers that loads it.
        config: What it is given as its config; None leaves it to the class.
        pooling: How its tokens become a feature, unless sentence-transformers recorded it.
        causal: Whether its tokens see only those before them although it is an encoder, as in CLIP.
    """

    kind: Any
    config: Any
    pooling: Pooling = "cls"
    causal: bool = False


def tower(folder: Path, config: Any, reads: Reads | None) -> Tower:
    """Return which network of a folder to load.

    Args:
        folder: For messages.
        config: The folder's.
        reads: The tower of a model of two that is asked for; None takes that of pictures.

    Raises:
        UserError: If it has a decoder and no encoder apart from it, or the tower is not one of those known here.
    """
    import transformers as t

    kind = config.model_type
    if kind == "clip":
        for own in (config.text_config, config.vision_config):
            own.projection_dim = config.projection_dim  # the towers' configs have a default, the whole one's decides
        if reads == "sentences":
            return Tower(t.CLIPTextModelWithProjection, config.text_config, "last", causal=True)
        return Tower(t.CLIPVisionModelWithProjection, config.vision_config)
    if kind in ("siglip", "siglip2") and reads == "sentences":
        raise UserError(
            f"{folder} holds a {kind}, whose sentences are scored by their padding; take its pictures, or an "
            "encoder of sentences such as BERT."
        )
    if kind == "siglip":
        return Tower(t.SiglipVisionModel, None, "own")
    if kind in T5:
        return Tower(t.AutoModelForTextEncoding, config, "mean")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise UserError(f"{folder} holds a {kind}, which has a decoder; give an encoder.")
    return Tower(t.AutoModel, config)


def parts(model: nn.Module, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Return the network that makes tokens, and what a pooled token goes through after it."""
    for name, projection in (("vision_model", "visual_projection"), ("text_model", "text_projection")):
        inner, last = getattr(model, name, None), getattr(model, projection, None)
        if isinstance(inner, nn.Module) and isinstance(last, nn.Module):
            norm = getattr(inner, "post_layernorm", None)  # pooled tokens of pictures go through it, of sentences not
            return inner, nn.Sequential(norm, last) if isinstance(norm, nn.Module) else last
    if isinstance(head := getattr(model, "head", None), nn.Module) and hasattr(model, "post_layernorm"):
        return model, head  # SigLIP pools by attention
    return model, dense_layers(folder)

"""Any timm vision transformer, frozen, with its sites resolved by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import timm
import torch
from huggingface_hub import constants as hub
from torch import Tensor, nn

from cl_framework.backbone import Backbone, Site
from cl_framework.errors import UserError, did_you_mean


@final
class Timm(Backbone):
    """A timm vision transformer without its classifier.

    Args:
        name: Architecture and weight tag, such as ``vit_base_patch16_224.augreg_in21k``.
        pretrained: Load the weights of the tag; without them the network is random, good for trying things only.
        weights: A checkpoint file to load instead, through timm's own loader.
        image_size: Side of the input in pixels, when it differs from the architecture's own.
        download: Allow timm to fetch weights that are not on this machine.

    Raises:
        UserError: If the name is unknown, has no tag although weights are asked for, or the weights are not here.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        image_size: int | None = None,
        download: bool = False,
    ) -> None:
        """Build the network and freeze it."""
        super().__init__()
        tagged = pretrained and weights is None
        _check_name(name, tagged)
        options: dict[str, Any] = {"img_size": image_size} if image_size else {}
        self._whole = partial(_load, name, weights, download, pretrained=tagged, **options)
        self.body, self.tagged = self._whole(num_classes=0), tagged
        self.name = name if weights is None else f"{name}@{Path(weights).name}"
        self.body.requires_grad_(False).eval()
        self.image_size = image_size or _side(self.body)
        self._sites = reached(self.body, transformer_sites(self.body), self.image_size)
        self.width = int(self.body.num_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return pooled features ``(n, width)`` of images ``(n, 3, side, side)``."""
        if x.shape[-1] != self.image_size:
            raise UserError(
                f"{self.name} sees {self.image_size} x {self.image_size} images and was given {x.shape[-2]} x "
                f"{x.shape[-1]}; choose `data.scenario.transform` or `model.backbone.image_size` to fit."
            )
        features: Tensor = self.body(x)
        return features

    def sites(self) -> Mapping[str, Site]:
        """Return the sites of every block that a forward pass goes through."""
        return self._sites

    def classifier(self) -> Mapping[str, Tensor] | None:
        """Return the linear classifier that its tag was trained with; None without a tag, or if it has another kind.

        Raises:
            UserError: If the weights have gone from this machine since.
        """
        if not self.tagged:
            return None
        head = self._whole().get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear) or head.in_features != self.width:
            return None
        weight = head.weight.detach()
        return {"weight": weight, "bias": weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()}


def _load(name: str, weights: str | None, download: bool, **options: Any) -> nn.Module:
    """Build a model of timm's, going online only if allowed to."""
    try:
        with _network(download):
            body: nn.Module = timm.create_model(name, checkpoint_path=weights or "", **options)
    except (OSError, RuntimeError, ConnectionError) as error:
        place = f"{weights} cannot be read" if weights else f"the weights of {name} are not on this machine"
        raise UserError(
            f"Cannot load the backbone: {place} ({type(error).__name__}); give `weights: FILE` or `download: true`."
        ) from error
    return body


def transformer_sites(body: nn.Module) -> dict[str, Site]:
    """Find the sites of a timm transformer by what its modules are, fused or separate projections alike."""
    found: dict[str, Site] = {}
    for path, block in body.named_modules():
        at = path.replace(".", "/")
        if isinstance(qkv := getattr(block, "qkv", None), nn.Linear):
            width = qkv.out_features // 3
            for i, role in enumerate(("query", "key", "value")):
                part = slice(i * width, (i + 1) * width)
                found[f"{at}/{role}"] = Site(role, qkv, qkv.in_features, width, columns=part)  # type: ignore[arg-type]
        for short, role in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            if isinstance(m := getattr(block, short, None), nn.Linear):
                found[f"{at}/{role}"] = Site(role, m, m.in_features, m.out_features)  # type: ignore[arg-type]
        attention = hasattr(block, "qkv") or hasattr(block, "q_proj")
        for short, role, here in (
            ("proj", "attention_out", attention),
            ("fc1", "mlp_in", True),
            ("fc2", "mlp_out", True),
        ):
            if here and isinstance(m := getattr(block, short, None), nn.Linear):
                found[f"{at}/{role}"] = Site(role, m, m.in_features, m.out_features)  # type: ignore[arg-type]
        if getattr(block, "gamma_2", None) is not None:
            continue  # a layer scale that is no module: nothing can join after it
        norm, mlp = getattr(block, "norm2", None), getattr(block, "mlp", None)
        if isinstance(norm, nn.LayerNorm) and isinstance(mlp, nn.Module):
            width = norm.normalized_shape[-1]
            last = getattr(block, "ls2", mlp)  # layer scale belongs to the MLP branch, so the adapter joins after it
            found[f"{at}/block_mlp"] = Site("block_mlp", last, width, width, reads=norm)
    return found


def _side(body: nn.Module) -> int:
    """Return the side of the images a model takes: what it was built for, or else what its weights were trained on."""
    built = getattr(getattr(body, "patch_embed", None), "img_size", None)
    return int(built[-1] if built else getattr(body, "pretrained_cfg", {})["input_size"][-1])


@torch.no_grad()
def reached(body: nn.Module, sites: Mapping[str, Site], image_size: int) -> dict[str, Site]:
    """Keep the sites that a hook can serve: some models read a layer's weight without calling the layer.

    A site also needs its input before its output, so a norm that comes after the MLP rules out the branch beside it.
    """
    order: list[nn.Module] = []
    watched = {m for s in sites.values() for m in (s.module, s.reads) if m is not None}
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in watched]
    body(torch.zeros(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    first = {m: order.index(m) for m in watched if m in order}
    return {
        k: s
        for k, s in sites.items()
        if s.module in first and (s.reads is None or first.get(s.reads, len(order)) < first[s.module])
    }


def _check_name(name: str, needs_tag: bool) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(
            f"timm has no model {architecture!r}. {did_you_mean(architecture, timm.list_models('*vit*'))[:200]}"
        )
    tags = timm.list_pretrained(f"{architecture}.*")
    if needs_tag and name not in tags:
        what = (
            f"has no weights tagged {tag!r}" if tag else "names no weights: the same bare name has meant different ones"
        )
        raise UserError(
            f"{name!r} {what}. Name them with their tag: {', '.join(tags) or 'none exist; set pretrained: false'}."
        )


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the hub client off the network unless the user asked for it; it read the environment at its own import."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = not allowed
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before

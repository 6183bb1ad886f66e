"""Any timm vision transformer, frozen, with its sites resolved by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import timm
import torch
from huggingface_hub import constants as hub
from timm.layers.norm import RmsNorm
from torch import Tensor, nn

from cl_framework.backbone import Backbone, Role, Site, refuse_sentences
from cl_framework.errors import UserError, did_you_mean

QKV: tuple[Role, ...] = ("query", "key", "value")
STREAM: tuple[Role, ...] = ("attention_in", "block_in", "block_out", "tokens_out")


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
        self.check(x)
        features: Tensor = self.body(x)
        return features

    def check(self, x: Tensor) -> None:
        """Refuse sentences, and pictures of another size."""
        refuse_sentences(self.name, x)
        if x.shape[-1] != self.image_size:
            raise UserError(
                f"{self.name} sees {self.image_size} x {self.image_size} images and was given {x.shape[-2]} x "
                f"{x.shape[-1]}; choose `data.scenario.transform` or `model.backbone.image_size` to fit."
            )

    def sites(self) -> Mapping[str, Site]:
        """Return the sites of every block that a forward pass goes through."""
        return self._sites

    def blocks(self) -> Sequence[nn.Module]:
        """Return its blocks; none where a family does not list them."""
        return block_list(self.body)

    def classifier(self) -> Mapping[str, Tensor] | None:
        """Return the linear classifier that its tag was trained with; None without a tag, or if it has another kind.

        Raises:
            UserError: If the weights have gone from this machine since.
        """
        return self._classifier if self.tagged else None

    @cached_property
    def _classifier(self) -> Mapping[str, Tensor] | None:
        """The classifier, kept once it is read: only the whole model's weight file holds it."""
        head = self._whole().get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear) or head.in_features != self.width:
            return None
        weight = head.weight.detach()
        return {"weight": weight, "bias": weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()}


def _load(name: str, weights: str | None, download: bool, **options: Any) -> nn.Module:
    """Build a model of timm's, going online only if allowed to."""
    try:
        with network(download):
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
    for path, module in body.named_modules():
        at = path.replace(".", "/")
        found |= {f"{at}/{role}": site for role, site in _inside(module).items()}
    mapped = {s.module for s in found.values()}
    for path, module in body.named_modules():
        at = path.replace(".", "/")
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | RmsNorm):
            width = int(module.normalized_shape[-1])
            found[f"{at}/norm"] = Site("norm", module, width, width)
        elif isinstance(module, nn.Linear) and module not in mapped:
            found[f"{at}/linear"] = Site("linear", module, module.in_features, module.out_features)
    found |= _stream(body)
    order = {f"blocks/{i}": i for i in range(len(block_list(body)))}
    at_block = {k: order.get("/".join(k.split("/")[:2])) for k in found}
    place = {k: class_position(body) if s.role in STREAM else None for k, s in found.items()}
    return {k: replace(s, block=at_block[k], blocks=len(order), position=place[k]) for k, s in found.items()}


def class_position(body: nn.Module) -> Tensor | None:
    """Return the position embedding of a timm transformer's class token ``(width,)``; None if it has none."""
    table = getattr(body, "pos_embed", None)
    token = getattr(body, "cls_token", None) is not None and not getattr(body, "no_embed_class", False)
    return table.detach()[0, 0] if token and isinstance(table, Tensor) and table.ndim == 3 else None


def _inside(block: nn.Module) -> dict[Role, Site]:
    """Find the linear maps of an attention or an MLP, and the branch beside the MLP of a block."""
    found: dict[Role, Site] = {}
    if isinstance(qkv := getattr(block, "qkv", None), nn.Linear):
        width = qkv.out_features // 3
        for i, role in enumerate(QKV):
            found[role] = Site(role, qkv, qkv.in_features, width, columns=slice(i * width, (i + 1) * width))
    attention = hasattr(block, "qkv") or hasattr(block, "q_proj")
    named: tuple[tuple[str, Role], ...] = (
        ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("proj", "attention_out"), ("fc1", "mlp_in"),
        ("fc2", "mlp_out"),
    )  # fmt: skip
    for short, role in named:
        if (short != "proj" or attention) and isinstance(m := getattr(block, short, None), nn.Linear):
            found[role] = Site(role, m, m.in_features, m.out_features)
    if getattr(block, "gamma_2", None) is not None:
        return found  # a layer scale that is no module: nothing can join after it
    norm, mlp = getattr(block, "norm2", None), getattr(block, "mlp", None)
    if isinstance(norm, nn.LayerNorm) and isinstance(mlp, nn.Module):
        width = norm.normalized_shape[-1]
        last = getattr(block, "ls2", mlp)  # layer scale belongs to the MLP branch, so the adapter joins after it
        found["block_mlp"] = Site("block_mlp", last, width, width, reads=norm)
    return found


def block_list(body: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformer that lists them, in order."""
    blocks = getattr(body, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []


def _stream(body: nn.Module) -> dict[str, Site]:
    """Find the places of the token stream, all or none."""
    blocks, embed, norm = block_list(body), getattr(body, "patch_embed", None), getattr(body, "norm", None)
    width = size if isinstance(size := getattr(body, "embed_dim", 0), int) else 0
    found: dict[str, Site] = {}
    if width and isinstance(embed, nn.Module):
        found["patch_embed/embedding"] = Site("embedding", embed, width, width)
    if not (width and blocks and isinstance(norm, nn.Module)):
        return found
    for i, block in enumerate(blocks):
        found[f"blocks/{i}/block_in"] = Site("block_in", block, width, width, before=True)
        found[f"blocks/{i}/block_out"] = Site("block_out", block, width, width)
        if isinstance(attention := getattr(block, "attn", None), nn.Module):
            found[f"blocks/{i}/attn/attention_in"] = Site("attention_in", attention, width, width, before=True)
    found["norm/tokens_out"] = Site("tokens_out", norm, width, width)
    return found


def _side(body: nn.Module) -> int:
    """Return the side of the images a model takes: what it was built for, or else what its weights were trained on."""
    built = getattr(getattr(body, "patch_embed", None), "img_size", None)
    return int(built[-1] if built else getattr(body, "pretrained_cfg", {})["input_size"][-1])


@torch.no_grad()
def reached(body: nn.Module, sites: Mapping[str, Site], image_size: int) -> dict[str, Site]:
    """Keep the sites that a hook can serve: some models read a layer's weight without calling the layer.

    A site also needs its input before its output, so a norm that comes after the MLP rules out the branch beside it;
    and features last, where channels do not rule them out. Places of the token stream are of use only if attention
    takes tokens that were not there before, which relative positions and windows do not.
    """
    order: list[nn.Module] = []
    width: dict[nn.Module, int] = {}

    def returns(module: nn.Module, _: object, out: object) -> None:
        width[module] = out.shape[-1] if isinstance(out, Tensor) else 0

    watched = {m for s in sites.values() for m in (s.module, s.reads) if m is not None}
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in watched]
    hooks += [m.register_forward_hook(returns) for m in watched]
    x = torch.zeros(1, 3, image_size, image_size)
    plain = body(x)
    for hook in hooks:
        hook.remove()
    first = {m: order.index(m) for m in watched if m in order}
    found = {
        k: s
        for k, s in sites.items()
        if s.module in first
        and (s.reads is None or first.get(s.reads, len(order)) < first[s.module])
        and (s.before or s.columns is not None or width[s.module] == s.width_out)
    }
    ends = [s for s in found.values() if s.role in ("block_in", "block_out")]
    if ends and _takes_tokens(body, ends, x, plain):
        return found
    return {k: s for k, s in found.items() if s.role not in STREAM}


def _takes_tokens(body: nn.Module, sites: Sequence[Site], x: Tensor, plain: Tensor) -> bool:
    """Tell whether every block can be given one token more, by giving it one."""

    def longer(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat([given[0], given[0][:, :1]], 1), *given[1:])

    hooks = [s.module.register_forward_pre_hook(longer) for s in sites if s.before]
    hooks += [s.module.register_forward_hook(lambda _, __, out: out[:, :-1]) for s in sites if not s.before]
    try:
        found: Tensor = body(x)
        return found.shape == plain.shape
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError):  # each family complains in its own way
        return False
    finally:
        for hook in hooks:
            hook.remove()


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
def network(allowed: bool) -> Iterator[None]:
    """Keep the hub client off the network unless the user asked for it; it read the environment at its own import."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = not allowed
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before

"""Sites of timm's vision transformers by role, and which of them a pass uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.layers.norm import RmsNorm
from torch import Tensor, nn

from cl_framework.backbones.base import STREAM_ROLES, Role, Site

QKV: tuple[Role, ...] = ("query", "key", "value")
Passed: TypeAlias = tuple[object, object]
"""First input and output of a module."""
SCALES = ("gamma_2", "gamma2")
"""Names of the layer scale of the MLP branch where it is a parameter."""


def transformer_sites(body: nn.Module) -> dict[str, Site]:
    """Find the sites of a timm transformer by the types of its modules, with fused or separate projections."""
    sites: dict[str, Site] = {}
    for path, module in body.named_modules():
        at = path.replace(".", "/")
        sites |= {f"{at}/{role}": site for role, site in _inside(module).items()}
    mapped = {s.module for s in sites.values()}
    for path, module in body.named_modules():
        at = path.replace(".", "/")
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | RmsNorm):
            width = int(module.normalized_shape[-1])
            sites[f"{at}/norm"] = Site("norm", module, width, width)
        elif isinstance(module, nn.Linear) and module not in mapped:
            sites[f"{at}/linear"] = Site("linear", module, module.in_features, module.out_features)
    sites |= _stream(body)
    order = {f"blocks/{i}": i for i in range(len(block_list(body)))}
    at_block = {k: order.get("/".join(k.split("/")[:2])) for k in sites}
    place = {k: class_position(body) if s.role in STREAM_ROLES else None for k, s in sites.items()}
    return {k: replace(s, block=at_block[k], blocks=len(order), position=place[k]) for k, s in sites.items()}


def class_position(body: nn.Module) -> Tensor | None:
    """Return the position embedding of a timm transformer's class token ``(width,)``; None if it has none."""
    table = getattr(body, "pos_embed", None)
    token = getattr(body, "cls_token", None) is not None and not getattr(body, "no_embed_class", False)
    return table.detach()[0, 0] if token and isinstance(table, Tensor) and table.ndim == 3 else None


def _inside(block: nn.Module) -> dict[Role, Site]:
    """Find the linear maps of an attention or an MLP, and the branch beside the MLP of a block."""
    sites: dict[Role, Site] = {}
    if isinstance(qkv := getattr(block, "qkv", None), nn.Linear):
        width = qkv.out_features // 3
        for i, role in enumerate(QKV):
            sites[role] = Site(role, qkv, qkv.in_features, width, columns=slice(i * width, (i + 1) * width))
    attention = hasattr(block, "qkv") or hasattr(block, "q_proj")
    named: tuple[tuple[str, Role], ...] = (
        ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("proj", "attention_out"), ("fc1", "mlp_in"),
        ("fc2", "mlp_out"),
    )  # fmt: skip
    for short, role in named:
        if (short != "proj" or attention) and isinstance(m := getattr(block, short, None), nn.Linear):
            sites[role] = Site(role, m, m.in_features, m.out_features)
    norm, mlp = getattr(block, "norm2", None), getattr(block, "mlp", None)
    if isinstance(norm, nn.LayerNorm) and isinstance(mlp, nn.Module):
        width = norm.normalized_shape[-1]
        last = getattr(block, "ls2", mlp)  # layer scale belongs to the MLP branch, so the adapter joins after it
        if any(isinstance(getattr(block, name, None), Tensor) for name in SCALES):
            last = getattr(block, "drop_path2", mlp)  # what follows a scale that is no module
        sites["block_mlp"] = Site("block_mlp", last, width, width, reads=norm)
    return sites


def scales_in_modules(body: nn.Module) -> None:
    """Give a layer scale that is a parameter a module of its own where none follows it, as in CaiT.

    It takes the place of the MLP's last dropout, which a frozen network never uses; features keep every bit.
    """
    for block in body.modules():
        scale, mlp = getattr(block, "gamma_2", None), getattr(block, "mlp", None)
        if isinstance(scale, Tensor) and isinstance(mlp, Mlp) and not hasattr(block, "drop_path2"):
            mlp.drop2 = LayerScale(len(scale))  # type: ignore[assignment]
            mlp.drop2.gamma = nn.Parameter(scale.detach())
            del block.gamma_2
            block.gamma_2 = 1.0  # type: ignore[assignment]


def block_list(body: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformer that lists them, in order."""
    blocks = getattr(body, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []


def _stream(body: nn.Module) -> dict[str, Site]:
    """Find the places of the token stream, all or none."""
    blocks, embed, norm = block_list(body), getattr(body, "patch_embed", None), getattr(body, "norm", None)
    width = size if isinstance(size := getattr(body, "embed_dim", 0), int) else 0
    sites: dict[str, Site] = {}
    if width and isinstance(embed, nn.Module):
        sites["patch_embed/embedding"] = Site("embedding", embed, width, width)
    if not (width and blocks and isinstance(norm, nn.Module)):
        return sites
    for i, block in enumerate(blocks):
        sites[f"blocks/{i}/block_in"] = Site("block_in", block, width, width, before=True)
        sites[f"blocks/{i}/block_out"] = Site("block_out", block, width, width)
        if isinstance(attention := getattr(block, "attn", None), nn.Module):
            sites[f"blocks/{i}/attn/attention_in"] = Site("attention_in", attention, width, width, before=True)
    sites["norm/tokens_out"] = Site("tokens_out", norm, width, width)
    return sites


@torch.no_grad()
def reached(body: nn.Module, sites: Mapping[str, Site], image_size: int) -> dict[str, Site]:
    """Keep the sites that a hook reaches: some models read a layer's weight without calling the layer.

    A site also needs its input before its output, so a norm that comes after the MLP rules out the branch beside it;
    and features last, where channels do not rule them out. Places of the token stream are of use only if attention
    takes tokens that were not there before, which relative positions and windows do not.
    """
    order: list[nn.Module] = []
    passed: dict[nn.Module, tuple[object, object]] = {}

    def returns(module: nn.Module, given: tuple[object, ...], out: object) -> None:
        passed[module] = given[0] if given else None, out

    around = {k: _block_of(body, k) for k, s in sites.items() if s.role == "block_mlp"}
    watched = {m for s in sites.values() for m in (s.module, s.reads) if m is not None} | set(around.values())
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in watched]
    hooks += [m.register_forward_hook(returns) for m in watched]
    x = torch.zeros(1, 3, image_size, image_size)
    plain = body(x)
    for hook in hooks:
        hook.remove()
    first = {m: order.index(m) for m in watched if m in order}
    kept = {
        k: s
        for k, s in sites.items()
        if s.module in first
        and (s.reads is None or first.get(s.reads, len(order)) < first[s.module])
        and (s.before or s.columns is not None or _last(passed[s.module][1]) == s.width_out)
        and (k not in around or _joins(passed.get(around[k]), passed.get(s.reads or s.module), passed[s.module]))
    }
    ends = [s for s in kept.values() if s.role in ("block_in", "block_out")]
    if ends and _takes_tokens(body, ends, x, plain):
        return kept
    return {k: s for k, s in kept.items() if s.role not in STREAM_ROLES}


def _block_of(body: nn.Module, key: str) -> nn.Module:
    return body.get_submodule(key.rpartition("/")[0].replace("/", "."))


def _last(out: object) -> int:
    return int(out.shape[-1]) if isinstance(out, Tensor) and out.dim() else 0


def _first(passed: object) -> Tensor | None:
    value = passed[0] if isinstance(passed, tuple) and passed else passed
    return value if isinstance(value, Tensor) else None


def _joins(block: Passed | None, reads: Passed | None, branch: Passed) -> bool:
    """Tell whether a block returns what its branch read plus what the branch returned: nothing scales it in between."""
    whole, residual, joined = _first(block and block[1]), _first(reads and reads[0]), _first(branch[1])
    if whole is None or residual is None or joined is None or whole.is_meta:
        return True  # cannot be known from here
    if not whole.numel() == residual.numel() == joined.numel():
        return True
    total = (residual.flatten() + joined.flatten()).view_as(whole)
    return torch.allclose(total, whole, rtol=1e-3, atol=1e-4)


def _takes_tokens(body: nn.Module, sites: Sequence[Site], x: Tensor, plain: Tensor) -> bool:
    """Tell whether every block can be given one token more, by giving it one."""

    def longer(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat([given[0], given[0][:, :1]], 1), *given[1:])

    hooks = [s.module.register_forward_pre_hook(longer) for s in sites if s.before]
    hooks += [s.module.register_forward_hook(lambda _, __, out: out[:, :-1]) for s in sites if not s.before]
    try:
        lengthened: Tensor = body(x)
        return lengthened.shape == plain.shape
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError):  # each family raises its own error
        return False
    finally:
        for hook in hooks:
            hook.remove()

"""Trial passes of an encoder on a few token ids, and attention that accepts added tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from cl_framework.backbones.base import Site
from cl_framework.backbones.hf_sites import blocks

ATTENTION = "padding_only"
FEW = 64
"""Tokens from which the fused kernel is faster on a CPU, about: at 128 it takes a third of the time, at 16 more."""
Kernel: TypeAlias = Literal["auto", "fused", "plain"]


def let_tokens_be_added(body: Any, how: Kernel = "auto") -> bool:
    """Give an encoder attention that masks padding only, so that it sees added tokens; False if it has its own.

    transformers makes one mask for all blocks, as long as the sentences; tokens added by an adapter would not fit it.
    The new mask replaces all other masking, so an encoder with windows keeps its own.

    Args:
        body: The encoder.
        how: What computes it, as `padding_only` takes it.
    """
    from transformers import AttentionInterface

    kinds = getattr(body.config, "layer_types", None) or ()
    windows = getattr(body.config, "sliding_window", None) or any(kind != "full_attention" for kind in kinds)
    if windows or not getattr(body, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(f"{ATTENTION}_{how}", partial(padding_only, how=how))
    body.set_attn_implementation(f"{ATTENTION}_{how}")
    return True


@torch.no_grad()
def looks_back_only(body: Any, ids: Tensor) -> bool:
    """Tell whether a token sees none that come after it, as in a decoder: its features are those of a text cut short.

    Args:
        body: The encoder, with attention of its own.
        ids: Token ids ``(1, tokens)``, none of them padding, the last two different.
    """
    other = torch.cat([ids[:, :-1], ids[:, -2:-1]], 1)
    one, two = (body(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state for x in (ids, other))
    return torch.equal(one[:, 0], two[:, 0])


@torch.no_grad()
def bears_more_tokens(body: Any, ids: Tensor) -> bool:
    """Allow added tokens if features stay the same and every block accepts one more; else leave attention unchanged.

    Args:
        body: The encoder, with attention of its own.
        ids: Token ids ``(1, tokens)``, none of them padding.
    """
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    plain = body(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    if not let_tokens_be_added(body):
        return False
    pieces = blocks(body).values()
    hooks = []
    try:
        same = body(input_ids=ids, attention_mask=to_add(mask)).last_hidden_state[:, :-1]
        hooks += [m.register_forward_pre_hook(lambda _, x: (torch.cat([x[0], x[0][:, :1]], 1), *x[1:])) for m in pieces]
        hooks += [m.register_forward_hook(lambda _, __, out: out[:, :-1]) for m in pieces]
        longer = body(input_ids=ids, attention_mask=to_add(mask)).last_hidden_state[:, :-1]
        fine = bool(pieces) and longer.shape == plain.shape and torch.allclose(same, plain, atol=1e-4, rtol=1e-4)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError):  # each family raises its own error
        fine = False
    finally:
        for hook in hooks:
            hook.remove()
    if not fine:
        body.set_attn_implementation("eager")
    return fine


@torch.no_grad()
def by_sample(body: Any, sites: Mapping[str, Site], ids: Tensor) -> dict[str, Site]:
    """Keep the sites at which the rows of a batch are its samples, at every call: adapters give each row its own.

    DeBERTa-v3 sends relative positions through the maps of query and key, too, and Longformer puts tokens first.

    Args:
        body: The encoder.
        sites: Its sites; those outside it are kept.
        ids: Token ids ``(n, tokens)`` of samples, more tokens than samples.
    """
    fine: dict[nn.Module, bool] = {}

    def rows(x: object) -> bool:
        return isinstance(x, Tensor) and len(x) == len(ids)

    def watch(module: nn.Module, given: tuple[object, ...], out: object) -> None:
        whole = bool(given) and rows(given[0]) and (module in returning or rows(out))
        fine[module] = fine.get(module, True) and whole

    inside = set(body.modules())
    touched = {k: {m for m in (s.module, s.reads) if m is not None and m in inside} for k, s in sites.items()}
    returning = {s.module for s in sites.values() if s.before}  # only what these are given is rewritten
    hooks = [m.register_forward_hook(watch) for m in set().union(*touched.values())]
    try:
        body(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return {k: s for k, s in sites.items() if all(fine.get(m, False) for m in touched[k])}


def to_add(mask: Tensor) -> Tensor:
    """Return what is added to the scores, ``(n, 1, 1, tokens)``, for a mask ``(n, tokens)`` that is 1 at tokens.

    >>> to_add(torch.tensor([[1, 0]])) < -1e38
    tensor([[[[False,  True]]]])
    """
    return (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min


def padding_only(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    how: Kernel = "auto",
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return softmax attention ``(n, tokens, heads, width)``, and its weights ``(n, heads, tokens, keys)`` if made.

    Args:
        module: The layer, as transformers passes it.
        query: ``(n, heads, tokens, width)``.
        key: ``(n, heads, keys, width)``.
        value: ``(n, heads, keys, width)``.
        attention_mask: ``(n, 1, 1, tokens)``, added to the scores; keys beyond it are seen.
        how: ``fused`` in one kernel, ``plain`` product by product; ``auto`` fuses on a GPU, and on a CPU from `FEW`
            tokens.
        options: ``scaling`` of the scores.
    """
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    mask = None if attention_mask is None else pad(attention_mask, (0, key.shape[2] - attention_mask.shape[-1]))
    if how == "fused" or (how == "auto" and (query.is_cuda or key.shape[2] >= FEW)):
        mask = None if mask is None else mask.to(query.dtype)
        return scaled_dot_product_attention(query, key, value, mask, scale=scale).transpose(1, 2).contiguous(), None
    scores = (query @ key.transpose(2, 3)) * scale
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights

"""Sites of transformers encoders by role, for any naming of their maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn

from cl_framework.backbones.base import STREAM_ROLES, Role, Site

MAPS: Mapping[Role, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "q", "query_proj"),
    "key": ("key", "k_proj", "k_lin", "k", "key_proj"),
    "value": ("value", "v_proj", "v_lin", "v", "value_proj"),
}
FUSED = ("Wqkv",)
"""Maps that return query, key and value side by side, a third each."""
OUT = ("o_proj", "out_lin", "out_proj", "o", "Wo")
MLP = (("fc1", "fc2"), ("lin1", "lin2"), ("Wi", "Wo"), ("wi", "wo"), ("wi_0", "wo"))
EMBEDDING = ("word_embeddings", "patch_embeddings", "tok_embeddings")
NORM = ("layernorm_after", "norm2", "layer_norm2", "mlp_norm")
"""Norms in front of an MLP; where there is none, the norm comes after it and the MLP reads the residual itself."""


def encoder_sites(body: nn.Module, pooled: nn.Module, width: int, grows: bool = True) -> dict[str, Site]:
    """Find the sites of an encoder by the types of its modules.

    Args:
        body: The encoder.
        pooled: A module that the token stream goes through between encoder and pooling.
        width: Width of the token stream.
        grows: Whether its attention accepts added tokens; sites that may add some are left out otherwise.
    """
    layers = blocks(body)
    sites = {
        f"{path}/{role}": replace(site, block=i, blocks=len(layers))
        for i, (path, block) in enumerate(layers.items())
        for role, site in _of_block(block, width)
    }
    mapped = {site.module for site in sites.values()}
    for path, module in body.named_modules():
        at, inside = path.replace(".", "/"), (i for i, start in enumerate(layers) if path.startswith(f"{start}."))
        block = next(inside, None)
        if isinstance(module, nn.LayerNorm):
            size = module.normalized_shape[-1]
            sites[f"{at}/norm"] = Site("norm", module, size, size, block=block, blocks=len(layers))
        elif isinstance(module, nn.Linear) and module not in mapped:
            size, out = module.in_features, module.out_features
            sites[f"{at}/linear"] = Site("linear", module, size, out, block=block, blocks=len(layers))
        elif path.rpartition(".")[2] in EMBEDDING:
            sites[f"{at}/embedding"] = Site("embedding", module, width, width, blocks=len(layers))
    sites["pooled/tokens_out"] = Site("tokens_out", pooled, width, width, blocks=len(layers))
    return {name.replace(".", "/"): site for name, site in sites.items() if grows or site.role not in STREAM_ROLES}


def blocks(body: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks: the members of the outermost lists whose every member holds an attention."""
    by_path: dict[str, nn.Module] = {}
    for path, layers in body.named_modules():
        inside = any(path.startswith(f"{at}.") for at in by_path)
        if isinstance(layers, nn.ModuleList) and not inside and all(attention(each) is not None for each in layers):
            by_path |= {f"{path}.{i}": each for i, each in enumerate(layers)}
    return by_path


def attention(block: nn.Module) -> nn.Module | None:
    """Return the first module within ``block`` that holds a query, a key and a value map, or all in one."""
    return next((m for m in block.modules() if all(site is not None for site in _asking(m).values())), None)


def _asking(module: nn.Module) -> dict[Role, Site | None]:
    """Return the sites of query, key and value in a module, None for each that it has no map for."""
    if (whole := _linear(module, FUSED)) is not None:
        width = whole.out_features // 3
        parts = [slice(i * width, (i + 1) * width) for i in range(3)]
        return {r: Site(r, whole, whole.in_features, width, columns=at) for r, at in zip(MAPS, parts, strict=True)}
    linears = {role: _linear(module, names) for role, names in MAPS.items()}
    return {r: None if m is None else Site(r, m, m.in_features, m.out_features) for r, m in linears.items()}


def _of_block(block: nn.Module, width: int) -> Iterator[tuple[str, Site]]:
    asks = attention(block)
    assert asks is not None
    yield "block_in", Site("block_in", block, width, width, before=True)
    yield "block_out", Site("block_out", block, width, width)
    yield "attention_in", Site("attention_in", asks, width, width, before=True)
    yield from ((role, site) for role, site in _asking(asks).items() if site is not None)
    first, last, inner = _mlp(block)
    maps: dict[Role, nn.Linear | None] = {
        "attention_out": _linear(asks, OUT) or _after(block, asks),
        "mlp_in": first,
        "mlp_out": last,
    }
    for role, m in maps.items():
        if m is not None:
            yield role, Site(role, m, m.in_features, m.out_features)
    norm = next((m for n in NORM if isinstance(m := getattr(block, n, None), nn.LayerNorm)), None) or _t5_norm(block)
    if last is None or last.out_features != width:  # MobileBERT's MLPs do not write to the token stream
        return
    if inner is not None:
        end = getattr(block, "layer_scale2", inner)  # a layer scale belongs to the branch, so an adapter joins after it
        yield "block_mlp", Site("block_mlp", end, width, width, reads=norm)
    else:  # BERT: the branch has no module of its own and ends in a dropout
        end = getattr(getattr(block, "output", None), "dropout", last)
        yield "block_mlp", Site("block_mlp", end, width, width, reads=norm or first)


def _t5_norm(block: nn.Module) -> nn.Module | None:
    """Return the norm in front of a T5 block's MLP, which lies beside it in a module of their own."""
    return next((m.layer_norm for m in block.modules() if hasattr(m, "DenseReluDense")), None)  # type: ignore[return-value]


def _mlp(block: nn.Module) -> tuple[nn.Linear | None, nn.Linear | None, nn.Module | None]:
    """Return the two maps of a block's MLP, and the module that holds both if one does."""
    for module in block.modules():
        for first, last in MLP:
            a, b = getattr(module, first, None), getattr(module, last, None)
            if isinstance(a, nn.Linear) and isinstance(b, nn.Linear):
                return a, b, module if module is not block else None
    pair = [getattr(getattr(block, part, None), "dense", None) for part in ("intermediate", "output")]
    a, b = (m if isinstance(m, nn.Linear) else None for m in pair)
    return a, b, None


def _after(block: nn.Module, asks: nn.Module) -> nn.Linear | None:
    """Return BERT's output map of attention, which lies beside the module with the query."""
    for module in block.modules():
        if module is not block and any(child is asks for child in module.children()):
            dense = getattr(getattr(module, "output", None), "dense", None)
            return dense if isinstance(dense, nn.Linear) else None
    return None


def _linear(module: nn.Module, names: tuple[str, ...]) -> nn.Linear | None:
    return next((m for n in names if isinstance(m := getattr(module, n, None), nn.Linear)), None)

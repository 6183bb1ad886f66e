"""Tensors as bytes: packed without pickle, fingerprinted, and told apart from what is already stored.

Importing this module costs nothing; torch arrives when a tensor does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and bytes."""
    import torch

    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return named tensors in safetensors format; the same tensors always make the same bytes."""
    from safetensors.torch import save

    # A clone of each: safetensors refuses tensors that share memory, and tied ones may.
    return save({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})


def unpack(data: bytes) -> dict[str, Tensor]:
    """Return what `pack` packed, on the CPU."""
    from safetensors.torch import load

    return load(data)


def keys(features: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of feature pairs ``<key>/ids`` ``(n,)`` int64 and ``<key>/rows`` ``(n, width)``."""
    return [name.removesuffix("/ids") for name in features if name.endswith("/ids")]


def known_rows(features: Mapping[str, Tensor]) -> dict[str, set[int]]:
    """Return the sample ids under each key."""
    return {key: set(features[f"{key}/ids"].tolist()) for key in keys(features)}


def new_rows(features: Mapping[str, Tensor], known: Mapping[str, set[int]]) -> dict[str, Tensor]:
    """Return the rows of ``features`` whose ids are not yet ``known``, as pairs again."""
    import torch

    found: dict[str, Tensor] = {}
    for key in keys(features):
        have = known.get(key, set())
        new = torch.tensor([i not in have for i in features[f"{key}/ids"].tolist()], dtype=torch.bool)
        if bool(new.any()):
            found |= {f"{key}/{part}": features[f"{key}/{part}"][new] for part in ("ids", "rows")}
    return found


def join_rows(known: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the pairs of both, rows under the same key one after the other."""
    import torch

    return {**known, **{k: torch.cat([known[k], v]) if k in known else v for k, v in more.items()}}

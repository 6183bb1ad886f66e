"""Features as pairs of sample ids and rows, as files hold them: read, compared with known ones, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cl_framework.errors import UserError
from cl_framework.storage.tensors import mapped
from cl_framework.storage.typed_records import RESTORE

if TYPE_CHECKING:
    from torch import Tensor


def pairs(path: Path) -> dict[str, Tensor]:
    """Return the feature pairs ``<key>/ids`` and ``<key>/rows`` of a file, read when they are looked at.

    Raises:
        UserError: If it holds anything else.
    """
    from safetensors import SafetensorError

    try:
        tensors = mapped(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no tensors that can be read ({error}); {RESTORE}.") from error
    named = {f"{key}/{part}" for key in keys(tensors) for part in ("ids", "rows")}
    wrong = sorted(named ^ tensors.keys()) or [
        key for key in keys(tensors) if not fitting(tensors[f"{key}/ids"], tensors[f"{key}/rows"])
    ]
    if wrong:
        raise UserError(f"{path} is damaged at {wrong[0]}: it is no pair of sample ids and features; {RESTORE}.")
    return tensors


def fitting(ids: Tensor, rows: Tensor) -> bool:
    """Tell whether these are sample ids ``(n,)`` int64 and as many features ``(n, width)``."""
    import torch

    whole = ids.dtype == torch.int64 and rows.is_floating_point()
    return whole and ids.ndim == 1 and rows.ndim == 2 and len(ids) == len(rows)


def keys(features: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of feature pairs ``<key>/ids`` ``(n,)`` int64 and ``<key>/rows`` ``(n, width)``."""
    return [name.removesuffix("/ids") for name in features if name.endswith("/ids")]


def known_rows(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sample ids under each key, in order."""
    return {key: features[f"{key}/ids"].sort().values for key in keys(features)}


def lost_rows(known: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    """Tell whether any row of ``known`` is not there ``now``."""
    from cl_framework.functional.sorted_ids import among

    return any(key not in now or not bool(among(ids, now[key]).all()) for key, ids in known.items())


def new_rows(features: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows of ``features`` whose ids are not yet ``known``, as pairs again."""
    from cl_framework.functional.sorted_ids import among

    new_pairs: dict[str, Tensor] = {}
    for key in keys(features):
        ids, rows = features[f"{key}/ids"], features[f"{key}/rows"]
        if key not in known:
            new_pairs |= {f"{key}/ids": ids, f"{key}/rows": rows}
        elif bool((new := ~among(ids, known[key])).any()):
            new_pairs |= {f"{key}/ids": ids[new], f"{key}/rows": rows[new]}
    return new_pairs


def join_rows(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the pairs of all parts, rows under the same key one after the other."""
    import torch

    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}

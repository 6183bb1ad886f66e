"""Sorted ids: membership, and insertion of rows."""

from __future__ import annotations

import torch
from torch import Tensor


def among(ids: Tensor, ordered: Tensor) -> Tensor:
    """Return which of ``ids`` ``(k,)`` occur in ``ordered`` ids, as a mask ``(k,)``.

    >>> among(torch.tensor([3, 1, 9]), torch.tensor([1, 2, 3])).tolist()
    [True, True, False]
    """
    ids = ids.cpu()
    if not len(ordered):
        return torch.zeros(len(ids), dtype=torch.bool)
    return ordered[torch.searchsorted(ordered, ids).clamp_max(len(ordered) - 1)] == ids


def _inserted(into: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Return ``into`` with ``values`` at the places ``at`` of the result.

    >>> _inserted(torch.tensor([1, 3]), torch.tensor([1, 3]), torch.tensor([2, 4])).tolist()
    [1, 2, 3, 4]
    """
    out = into.new_empty(len(into) + len(values))
    old = torch.ones(len(out), dtype=torch.bool)
    old[at] = False
    out[at], out[old] = values, into
    return out

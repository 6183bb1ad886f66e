"""Size of an adapter, computed before one is made."""

from __future__ import annotations

import os

import torch

from cl_framework.adapters.base import Adapter
from cl_framework.backbones.base import Backbone
from cl_framework.errors import UserError


def check_size(adapter: Adapter, backbone: Backbone) -> None:
    """Require that one adapter fits into this machine's memory; it is built without storage.

    Raises:
        UserError: If it does not.
    """
    size, room = bytes_of(adapter, backbone), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > room:
        raise UserError(
            f"One {type(adapter).__name__} as configured would take {size / 1e9:,.0f} GB, and this machine has "
            f"{room / 1e9:,.0f} GB of memory; lower its width, rank or number of tokens under model.adapter."
        )


def bytes_of(adapter: Adapter, backbone: Backbone) -> int:
    """Return the bytes of the parameters of one adapter, for sites that can be built without storage."""
    total = 0
    for site in backbone.sites().values():
        try:
            with torch.device("meta"):
                built = adapter.build(site)
        except (RuntimeError, NotImplementedError):  # its start reads numbers
            continue
        total += sum(p.numel() * p.element_size() for p in built.parameters()) if built is not None else 0
    return total

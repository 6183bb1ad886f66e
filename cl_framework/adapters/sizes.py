"""How large an adapter would be, known before one is made."""

from __future__ import annotations

import os

import torch

from cl_framework.adapters.base import Adapter
from cl_framework.backbones.base import Backbone
from cl_framework.errors import UserError


def check_size(adapter: Adapter, backbone: Backbone) -> None:
    """Make sure that one adapter fits into this machine's memory: it is built without any numbers in it.

    Raises:
        UserError: If it does not.
    """
    size, room = bytes_of(adapter, backbone), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > room:
        raise UserError(
            f"One {type(adapter).__name__} as it is set would take {size / 1e9:,.0f} GB, and this machine has "
            f"{room / 1e9:,.0f} GB of memory; lower its width, rank or number of tokens under model.adapter."
        )


def bytes_of(adapter: Adapter, backbone: Backbone) -> int:
    """Return how many bytes the parameters of one adapter take, of those places that can be built without numbers."""
    found = 0
    for site in backbone.sites().values():
        try:
            with torch.device("meta"):
                built = adapter.build(site)
        except (RuntimeError, NotImplementedError):  # starts from numbers that it reads
            continue
        found += sum(p.numel() * p.element_size() for p in built.parameters()) if built is not None else 0
    return found

"""Access to the model hub, only where the user allows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants as hub


@contextmanager
def network(allowed: bool) -> Iterator[None]:
    """Keep the hub client off the network unless the user asked for it; it read the environment at its own import."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = not allowed
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before

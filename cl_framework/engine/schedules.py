"""Schedules of the learning rate, in the form that Lightning takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau


def scheduled(
    optimizer: Optimizer, schedule: str | Callable[[Optimizer], LRScheduler | ReduceLROnPlateau], epochs: int
) -> Any:
    """Return an optimiser and its schedule in Lightning's form.

    Args:
        optimizer: Whose groups have their own learning rates where they give an ``lr_factor``.
        schedule: ``constant``, ``cosine`` to zero, ``quarter_cosine`` as InfLoRA was released, or a scheduler of torch.
        epochs: Number of epochs.
    """
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)
    if schedule == "constant":
        return optimizer
    epochs = max(epochs, 1)
    if schedule == "quarter_cosine":
        quarter = 0.495 * math.pi / max(epochs - 1, 1)
        return [optimizer], [LambdaLR(optimizer, lambda epoch: math.cos(quarter * epoch))]
    falls = schedule(optimizer) if callable(schedule) else CosineAnnealingLR(optimizer, T_max=epochs)
    watched = {"monitor": getattr(falls, "monitor", "loss")} if isinstance(falls, ReduceLROnPlateau) else {}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falls, **watched}}

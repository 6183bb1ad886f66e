"""Checks of pictures: layout, type and range."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_framework.errors import UserError

SLACK = 1e-3
"""How far a pixel may lie outside [0, 1], as resizing rounds: a quarter of a grey level."""
ROWS = 256  # rows checked at once: a copy of all pixels may not fit


def off_range(x: Tensor) -> str | None:
    """Return why the numbers of floating point pictures are no pixels in [0, 1], as a clause; None if they are.

    Args:
        x: ``(n, ...)``; NaN and infinity are ignored, `not_finite` finds them.

    >>> off_range(torch.tensor([[0.0, 0.5]])) is None, off_range(torch.tensor([[0.0, 255.0]]))
    (True, 'run from 0 to 255; divide by 255')
    """
    if not x.numel():
        return None
    ends = [torch.stack(part.nan_to_num(0.5, 0.5, 0.5).aminmax()) for part in torch.split(x, ROWS)]
    low, high = float(torch.stack(ends)[:, 0].min()), float(torch.stack(ends)[:, 1].max())
    if low >= -SLACK and high <= 1 + SLACK:
        return None
    advice = "divide by 255" if low >= 0 and high <= 255 else "scale to 0 to 1, and leave normalising to the backbone"
    return f"run from {low:g} to {high:g}; {advice}"


def not_finite(x: Tensor) -> Tensor:
    """Return the rows ``(k,)`` of ``x`` ``(n, ...)`` that hold NaN or infinity."""
    if not x.is_floating_point() or not len(x):
        return torch.empty(0, dtype=torch.int64)
    return (~torch.cat([part.isfinite().flatten(1).all(1) for part in torch.split(x, ROWS)])).nonzero()[:, 0].cpu()


def check_layout(name: str, x: Tensor, advice: str, side: int | None = None) -> None:
    """Refuse inputs that are no floating point pictures ``(n, 3, side, side)``; reads none of them.

    Args:
        name: Name of the backbone.
        x: Inputs.
        advice: What to set where only the size is wrong, as a clause.
        side: The size that it takes, in pixels; None for any.

    Raises:
        UserError: If they are not; says what was given and what is expected.
    """
    if x.dim() == 2:
        raise UserError(
            f"{name} reads pictures and was given sentences; set `--model.backbone huggingface:NAME`, an encoder of "
            "sentences, or give pictures."
        )
    size = "H, W" if side is None else f"{side}, {side}"
    problem = f"{name} takes floats (n, 3, {size}) from 0 to 1 and was given {_type(x)} {tuple(x.shape)}"
    if x.dim() != 4:
        raise UserError(f"{problem}; stack pictures of one size, each (3, H, W).")
    if x.shape[1] != 3:
        last = x.shape[-1] == 3
        way = "move the channels with x.movedim(-1, 1)" if last else "repeat grey with x.expand(-1, 3, -1, -1)"
        raise UserError(f"{problem}; {way if last or x.shape[1] == 1 else 'give three channels'}.")
    if not x.is_floating_point():
        raise UserError(f"{problem}; divide by 255.")
    if side is not None and x.shape[-2:] != (side, side):
        raise UserError(f"{name} sees {side} x {side} pictures and was given {x.shape[-2]} x {x.shape[-1]}; {advice}.")


def check_pixels(name: str, x: Tensor) -> None:
    """Refuse pictures with values outside [0, 1] or not finite; reads all of them.

    Raises:
        UserError: If there are some, saying what was found.
    """
    if x.numel():
        low, high = x.aminmax()  # NaN makes both NaN, which is in no range
        if bool((low >= -SLACK) & (high <= 1 + SLACK)):
            return
    if len(bad := not_finite(x)):
        raise UserError(f"{name} was given NaN or infinity in pictures {bad[:5].tolist()}; fix or remove them.")
    if why := off_range(x):
        raise UserError(f"{name} takes pixels from 0 to 1, and those it was given {why}.")


def _type(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")

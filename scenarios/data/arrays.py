"""Arrays and tensors of users as pictures: unambiguous ones are taken, others refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.functional import off_range

CHANNELS = (1, 3)
WANTED = "(n, 3, H, W) or (n, 1, H, W), channels last or none for grey, as uint8 or floats from 0 to 1"


def upright(name: str, images: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Return pictures as ``(n, C, H, W)`` with one or three channels, uint8 or floats in [0, 1].

    Args:
        name: What the images are called in messages, such as ``train images``.
        images: ``(n, C, H, W)``, ``(n, H, W, C)``, or ``(n, H, W)`` in grey. NaN is left to the caller, who can name
            the samples.

    Raises:
        UserError: If shape, type or range leave open what they are; what was found and what is expected is said.
    """
    try:
        x = torch.as_tensor(images)
    except TypeError as error:  # types that torch does not have
        raise UserError(f"The {name} are {getattr(images, 'dtype', type(images))}; give {WANTED}.") from error
    description = f"The {name} are {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    if x.dtype != torch.uint8 and not x.is_floating_point():
        numbers = x.numpy(force=True)  # some types have no minimum in torch
        span = f" from {np.min(numbers)} to {np.max(numbers)}" if x.numel() and not x.is_complex() else ""
        raise UserError(f"{description}{span}; give {WANTED}.")
    x = _channels_first(description, x)
    if x.is_floating_point() and (why := off_range(x)):
        raise UserError(f"{description} and {why}; expected {WANTED}.")
    return x


def _channels_first(description: str, x: Tensor) -> Tensor:
    if x.ndim == 3 and x.numel():
        return x[:, None]
    first, last = (x.ndim == 4 and x.shape[i] in CHANNELS for i in (1, 3))
    if not x.numel() or first == last:
        both = ", of which both the first and the last could be channels" if first and last and x.numel() else ""
        raise UserError(f"{description}{both}; give {WANTED}.")
    return x if first else x.movedim(-1, 1).contiguous()

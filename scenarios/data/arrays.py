"""Arrays, tensors, pictures and sentences as people have them in Python: what is plain is taken, all else refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.functional import off_range
from scenarios.pictures.decode import read_image, read_sentence
from scenarios.pictures.pixels import bound, three_channels
from scenarios.pictures.transforms import Transform

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


def class_indices(name: str, labels: Tensor | np.ndarray[Any, Any] | Sequence[int]) -> Tensor:
    """Return labels as indices of classes: ``(n,)`` int64.

    Args:
        name: What the labels are called in messages, such as ``train labels``.
        labels: ``(n,)`` whole numbers of any type.

    Raises:
        UserError: If they are words, fractions or one row of numbers for each sample.
    """
    wanted = "give one whole number for each sample, the place of its class in class_names"
    try:
        y = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The {name} are no numbers; {wanted}.") from error
    if y.ndim != 1:
        of_one_hot = "; labels.argmax(1) makes such of one-hot rows" if y.ndim == 2 else ""
        raise UserError(f"The {name} have the shape {tuple(y.shape)}; {wanted}{of_one_hot}.")
    whole = y.to(torch.int64) if not y.is_complex() else y.real.to(torch.int64)
    if len(fractions := (whole != y).nonzero()[:, 0]):
        raise UserError(f"The {name} hold {y[fractions[0]].item()}, which is no whole number; {wanted}.")
    return whole


def inputs_from(given: Any, how: Transform) -> Tensor:
    """Return inputs ``(n, ...)`` for a model.

    Args:
        given: Pictures: an array or tensor in a layout that `arrays.upright` takes, one picture of Pillow or one path,
            or a list of such. Sentences: one word or a list; a ``Path`` is a file that holds one.
        how: The transform.

    Raises:
        UserError: If it is something else, or a file cannot be read.
    """
    if isinstance(given, Tensor | np.ndarray) and how.takes == "pictures":
        return how.test()(_coloured(upright("pictures", given)))
    one = isinstance(given, str | Path | Image)
    if not one and (not isinstance(given, Iterable) or isinstance(given, bytes | Tensor | np.ndarray)):
        raise _refusal(given, how)
    items = [given] if one else list(given)
    if not items:
        raise UserError(f"There is nothing to predict; give one or more {how.takes}.")
    take = _picture if how.takes == "pictures" else _sentence
    return how.test()([take(item, how) for item in items])


def _picture(item: Any, how: Transform) -> Tensor:
    if isinstance(item, str | Path):
        return read_image(Path(item).expanduser())
    if isinstance(item, Image):
        try:
            bound(item)
            return three_channels(item)
        except ValueError as error:
            raise UserError(f"A picture cannot be taken: {error}.") from error
    if isinstance(item, Tensor | np.ndarray):
        return _coloured(upright("pictures", item[None]))[0]
    raise _refusal(item, how)


def _sentence(item: Any, how: Transform) -> str:
    if isinstance(item, Path):
        return read_sentence(item.expanduser())
    if isinstance(item, str) and item.strip() and "\0" not in item:
        return item.strip()
    raise _refusal(item, how)


def _coloured(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def _refusal(item: Any, how: Transform) -> UserError:
    """Return what to raise about something that the stream does not hold."""
    wanted = {
        "pictures": "an array or tensor (n, 3, H, W), pictures of Pillow, or paths of image files",
        "sentences": "sentences, or each as a pathlib.Path of a text file that holds one",
    }
    kind = f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")
    shown = f" {item[:40]!r}" if isinstance(item, str | bytes) else ""
    return UserError(f"The stream of this run holds {how.takes}, and {kind}{shown} is none; give {wanted[how.takes]}.")


def _channels_first(description: str, x: Tensor) -> Tensor:
    if x.ndim == 3 and x.numel():
        return x[:, None]
    first, last = (x.ndim == 4 and x.shape[i] in CHANNELS for i in (1, 3))
    if not x.numel() or first == last:
        both = ", of which both the first and the last could be channels" if first and last and x.numel() else ""
        raise UserError(f"{description}{both}; give {WANTED}.")
    return x if first else x.movedim(-1, 1).contiguous()

"""Pillow's resizing of many pictures at once, on any device: each direction is a product with a matrix of weights.

In double precision every product and sum of Pillow's arithmetic (8-bit pixels, weights of 22 binary places, rounding
after each direction) is exact, so that results are Pillow's bit for bit, on any device and in any batch; in single
precision some values differ by one level of 255. Rows are resized before columns; Pillow 13 turns that round where
heights shrink much more than widths, which makes as small a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as one

from scenarios.pictures.decode import in_parallel

Filter: TypeAlias = Callable[[Tensor], Tensor]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
"""Weight at a distance."""

TRIES = 10  # draws of torchvision before it takes the middle


def bilinear(t: Tensor) -> Tensor:
    """Return the weight at a distance ``t`` >= 0.

    >>> bilinear(torch.tensor([0.0, 0.25, 2.0])).tolist()
    [1.0, 0.75, 0.0]
    """
    return (1 - t).clamp_min(0)


def bicubic(t: Tensor) -> Tensor:
    """Return the weight at a distance ``t`` >= 0 (Keys, 1981, with a = -1/2, as in Pillow).

    >>> bicubic(torch.tensor([0.0, 0.5, 1.5, 2.0])).tolist()
    [1.0, 0.5625, -0.0625, 0.0]
    """
    near, far = (1.5 * t - 2.5) * t * t + 1, -0.5 * (((t - 5) * t + 8) * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def weights(
    starts: Tensor, lengths: Tensor, width: int, size: int, how: Filter, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the weights by which Pillow resizes stretches of a line: ``(n, size, there)``.

    Args:
        starts: ``(n,)`` where each stretch begins; pixels outside it are not used.
        lengths: ``(n,)`` pixels in each.
        width: Pixels in the line.
        size: Pixels in the result.
        how: The filter; when pixels become fewer, it becomes wider: antialiasing.
        dtype: In double precision the weights are rounded to 22 binary places, as Pillow does.
    """
    starts, lengths = (v.to(dtype).view(-1, 1, 1) for v in (starts, lengths))
    scale = lengths / size
    centre = (torch.arange(size, dtype=dtype, device=starts.device)[:, None] + 0.5) * scale
    at = torch.arange(width, dtype=dtype, device=starts.device) - starts
    w = how((at + 0.5 - centre).mul_(1 / scale.clamp_min(1)).abs_()) * ((at >= 0) & (at < lengths))
    if dtype != torch.float64:
        return w.div_(w.sum(-1, keepdim=True))
    w = w / w.cumsum(-1)[..., -1:]  # summed from left to right
    return (w * 2**22 + torch.copysign(torch.tensor(0.5, dtype=dtype), w)).trunc() / 2**22


def resampled(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Resize, first the rows and then the columns, rounding after each.

    Args:
        images: ``(n, c, H, W)`` uint8.
        down: ``(n or 1, h, H)``; its precision is that of all products.
        across: ``(n or 1, w, W)``.

    Returns:
        ``(n, c, h, w)`` float32 in [0, 1].
    """
    n, c, height, _ = images.shape
    h, w = down.shape[1], across.shape[1]
    x = images.to(down.dtype).reshape(n, -1, images.shape[-1])
    x = _levels(x @ across.mT).view(n, c, height, w).transpose(1, 2).reshape(n, height, c * w)
    return (_levels(down @ x).float() / 255).view(n, h, c, w).transpose(1, 2).contiguous()


def _levels(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=16)
def centred(
    height: int, width: int, side: int, size: int, device: torch.device, how: Interpolation = "bicubic"
) -> tuple[Tensor, Tensor]:
    """Return the weights, down and across, of a resize of the shorter side and a centre crop."""
    short, kernel = min(height, width), {"bicubic": bicubic, "bilinear": bilinear}[how]
    matrices = []
    for n in (height, width):
        resized = side if n == short else int(side * n / short)
        start = round((resized - size) / 2.0)
        matrices.append(weights(torch.zeros(1), torch.full((1,), n), n, resized, kernel)[:, start : start + size])
    return matrices[0].to(device), matrices[1].to(device)


def draw_crops(sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Draw a random crop for each picture, distributed as torchvision's ``RandomResizedCrop``.

    A share of the area and an aspect ratio (width / height, uniform in its logarithm) are drawn until the crop fits,
    at most ten times; then the largest crop in the middle whose ratio is allowed is taken.

    Args:
        sizes: ``(n, 2)`` int64, height and width of each picture.
        scale: Least and largest share of the area.
        ratio: Least and largest aspect ratio.

    Returns:
        ``(n, 4)`` int64: top, left, height, width.
    """
    n, (height, width) = len(sizes), sizes.double().unbind(1)
    share, aspect, down, across = (torch.rand(n, TRIES, 4, dtype=torch.float64)).unbind(2)
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * share)
    low, high = map(math.log, ratio)
    aspect = (low + (high - low) * aspect).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first = fits.long().argmax(1, keepdim=True)
    h, w, down, across = (v.gather(1, first)[:, 0] for v in (h, w, down, across))
    top, left = (down * (height - h + 1)).floor(), (across * (width - w + 1)).floor()
    shape = width / height
    most_w = torch.where(shape > ratio[1], (height * ratio[1]).round(), width)
    most_h = torch.where(shape < ratio[0], (width / ratio[0]).round(), height)
    middle = torch.stack([((height - most_h) / 2).floor(), ((width - most_w) / 2).floor(), most_h, most_w], 1)
    return torch.where(fits.any(1)[:, None], torch.stack([top, left, h, w], 1), middle).long()


def crops(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Resize a crop of each picture bilinearly and flip some: ``(n, 3, size, size)`` float32, on the pictures' device.

    Args:
        images: ``(n, 3, H, W)`` uint8.
        boxes: ``(n, 4)``: top, left, height, width.
        flips: ``(n,)`` bool.
        size: Side of the results.
    """
    top, left, height, width = boxes.to(images.device).unbind(1)
    down = weights(top, height, images.shape[-2], size, bilinear, torch.float32)
    across = weights(left, width, images.shape[-1], size, bilinear, torch.float32)
    across = torch.where(flips.to(images.device)[:, None, None], across.flip(1), across)
    return resampled(images, down, across)


def cut(images: Sequence[Tensor], boxes: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cut crops out of pictures of any sizes and send them to ``device`` together.

    Returns:
        The crops in the upper left corners of ``(n, 3, H, W)`` uint8, and where they are there, as ``boxes``.
    """
    parts = [i[:, t : t + h, x : x + w] for i, (t, x, h, w) in zip(images, boxes.tolist(), strict=True)]
    height, width = boxes[:, 2:].amax(0).tolist()
    whole = torch.zeros(len(parts), height, width, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for to, part in zip(whole.movedim(-1, 1), parts, strict=True):  # channels last, as pictures are decoded and kept
        to[:, : part.shape[1], : part.shape[2]] = part
    corner = torch.zeros_like(boxes[:, :2])
    return whole.to(device, non_blocking=True).movedim(-1, 1), torch.cat([corner, boxes[:, 2:]], 1)


def pillow_crops(images: Tensor | Sequence[Tensor], boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Do what `crops` does with Pillow, one picture at a time, and several at a time where there are cores."""

    def crop(each: tuple[Tensor, list[int], bool]) -> Tensor:
        image, box, flip = each
        resized = one.resized_crop(one.to_pil_image(image), *box, [size, size], InterpolationMode.BILINEAR)
        return _pixels(one.horizontal_flip(resized) if flip else resized)

    cropped = in_parallel(crop, list(zip(images, boxes.tolist(), flips.tolist(), strict=True)))
    return torch.stack(cropped).float() / 255


def pillow_centre(image: Tensor, side: int, size: int, how: Interpolation = "bicubic") -> Tensor:
    """Resize the shorter side of a picture and crop the middle, with Pillow: ``(3, size, size)`` uint8."""
    resized = one.resize(one.to_pil_image(image), [side], InterpolationMode(how))
    return _pixels(one.center_crop(resized, [size, size]))


def pillow_reduced(image: Tensor, area: int) -> Tensor:
    """Return a picture with at most ``area`` pixels: itself, or made smaller bicubically with Pillow."""
    height, width = image.shape[-2:]
    if height * width <= area:
        return image
    share = math.sqrt(area / (height * width))
    size = [max(1, int(height * share)), max(1, int(width * share))]
    return _pixels(one.resize(one.to_pil_image(image), size, InterpolationMode.BICUBIC))


def _pixels(image: Image) -> Tensor:
    pixels: Tensor = one.pil_to_tensor(image)
    return pixels

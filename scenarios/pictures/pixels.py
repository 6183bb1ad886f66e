"""Opened pictures to three channels of bytes: upright, transparency over white, wide greys scaled."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

MOST_PIXELS = 2**26
"""Most pixels of a picture, 67 million: decoding takes 3 bytes for each, and up to 4 for what the file holds."""
STRIP = 2**22
"""About how many pixels are converted at a time."""
BITS = (8, 12, 16, 31)
"""Bit depths of wide greys."""
RANGED = ("F", "I")
"""Modes whose numbers may lie out of range: floats, and whole numbers with a sign."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that puts a picture upright, by EXIF orientation."""


def bound(image: Image.Image) -> None:
    """Require at most `MOST_PIXELS` pixels of an opened picture; a larger JPEG will be decoded smaller.

    Raises:
        ValueError: If it has more.
    """
    width, height = image.size
    if width * height <= MOST_PIXELS:
        return
    if image.format == "JPEG" and "progressive" not in image.info:  # a progressive one is decoded whole first
        share = next((s for s in (2, 4, 8) if width * height <= MOST_PIXELS * s * s), None)
        if share is not None:
            image.draft(image.mode, (width // share, height // share))
            return
    raise ValueError(f"{width} x {height} are {width * height:,} pixels, more than {MOST_PIXELS:,}: make it smaller")


def three_channels(image: Image.Image) -> Tensor:
    """Decode an opened picture: ``(3, H, W)`` uint8.

    - EXIF orientation is applied. Grey becomes three equal channels; CMYK and palettes become RGB.
    - Transparent pixels are laid over white; colours below them are dropped.
    - Whole numbers of more than a byte are scaled so that the largest of 8, 12, 16 or 31 bits is white, the fewest that
      hold the picture's brightest pixel: 12 bits in a file of 16 are as bright as they should be. Floats are taken as
      they are if none is above 1, and like whole numbers otherwise.

    Raises:
        ValueError: If it holds NaN, infinity, or numbers below zero, or floats just above 1 whose white is uncertain.
    """
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        grey, clear = np.array(image), image.info.get("transparency")
        most = white(grey)
        levels = (grey.astype(np.float32).clip(0, most) * (255 / most)).round().astype(np.uint8)
        if isinstance(clear, int):
            levels[grey == clear] = 255
        image = _upright(Image.fromarray(levels), _orientation(image))
    else:
        image = _upright(image, _orientation(image))
    width, height = image.size
    pixels, rows = np.empty((height, width, 3), np.uint8), max(1, STRIP // width)
    for top in range(0, height, rows):
        pixels[top : top + rows] = np.asarray(_opaque(image.crop((0, top, width, min(height, top + rows)))))
    return torch.from_numpy(pixels).movedim(-1, 0)


def _opaque(image: Image.Image) -> Image.Image:
    """Return a picture in RGB, laid over white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def white(grey: np.ndarray[Any, Any]) -> float:
    """Return the value of white in a picture of wide numbers.

    >>> white(np.array([0, 4000])), white(np.array([0, 5000])), white(np.array([0.0, 0.5]))
    (4095.0, 65535.0, 1.0)

    Raises:
        ValueError: If there is NaN, infinity, or a number below zero, or the range is uncertain.
    """
    least, most = float(grey.min(initial=0)), float(grey.max(initial=0))
    if not np.isfinite(grey).all():
        raise ValueError("it holds NaN or infinity")
    if least < 0:
        raise ValueError(f"it holds numbers below zero, down to {least:g}: shift them to begin at 0")
    if np.issubdtype(grey.dtype, np.floating) and most < 2:
        if most > 1:
            raise ValueError(
                f"its largest value is {most:g}, which fits neither 0 to 1 nor 0 to 255: scale it to 0 to 1"
            )
        return 1.0
    for bits in BITS:
        if most < 2**bits:
            return float(2**bits - 1)
    raise ValueError(f"it holds numbers up to {most:g}: scale them to 0 to 1")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where there is none that can be read."""
    with suppress(Exception):  # malformed EXIF raises many errors in Pillow, and the picture is readable all the same
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image

"""Characters as distance maps, so that a stroke of any width can be drawn from them.

A character of a font is rasterised once on a 64 x 64 canvas and kept as two maps, in canvas pixels:
``edge``, the signed distance to its outline (positive inside), and ``spine``, the distance to its skeleton.
Thresholding ``edge`` gives the font's own weight; thresholding ``spine`` gives the line of a pen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from torch import Tensor

CANVAS = 64
INK = 46  # the longer side of a drawn character; the rest is margin for what augmentation moves
FACES = (
    "DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "DejaVuSans-Oblique",
    "DejaVuSerif-Italic", "DejaVuSans-Bold", "STIXGeneralItalic",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Atlas:
    """Distance maps of drawings, and which character each one shows.

    Attributes:
        edge: ``(drawings, 64, 64)`` float16, signed distance to the outline in pixels, positive inside.
        spine: ``(drawings, 64, 64)`` float16, distance to the skeleton in pixels.
        character: ``(drawings,)`` int64, the index of the character drawn.
    """

    edge: Tensor
    spine: Tensor
    character: Tensor


@cache
def font(face: str) -> ImageFont.FreeTypeFont:
    """Load one of matplotlib's fonts at a size well above the canvas."""
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(path), 64, layout_engine=ImageFont.Layout.BASIC)


@cache
def charmap(face: str) -> frozenset[int]:
    """Return the code points a face can draw."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf")).get_charmap())


def rasterise(character: str, face: str) -> NDArray[np.bool_] | None:
    """Draw ``character`` centred on the canvas, its longer side ``INK`` pixels; None if it has no ink."""
    left, top, right, bottom = font(face).getbbox(character)
    if right - left < 2 or bottom - top < 2:
        return None
    big = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(big).text((-left, -top), character, fill=255, font=font(face))
    box = big.getbbox()
    if box is None:
        return None
    big = big.crop(box)
    scale = INK / max(big.size)
    small = big.resize((max(1, round(big.width * scale)), max(1, round(big.height * scale))), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(small, ((CANVAS - small.width) // 2, (CANVAS - small.height) // 2))
    mask: NDArray[np.bool_] = np.asarray(canvas) > 110
    return mask if mask.any() else None


def _droppable() -> NDArray[np.bool_]:
    """Return for both halves of a round and each neighbourhood whether the pixel in the middle may go: ``(2, 256)``."""
    n = [(np.arange(256) >> i & 1).astype(bool) for i in range(8)]  # the neighbours, clockwise from north
    count = sum(p.astype(np.int8) for p in n)
    turns = sum((~a & b).astype(np.int8) for a, b in zip(n, n[1:] + n[:1], strict=True))
    north, east, south, west = n[0], n[2], n[4], n[6]
    first = ~(north & east & south) & ~(east & south & west)
    second = ~(north & east & west) & ~(north & south & west)
    tables: NDArray[np.bool_] = np.stack([first, second]) & (count >= 2) & (count <= 6) & (turns == 1)
    return tables


def thin(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Reduce every mask of a stack ``(n, h, w)`` to a one-pixel skeleton (Zhang and Suen, CACM 27(3), 1984)."""
    droppable = _droppable()
    result = np.pad(masks, ((0, 0), (1, 1), (1, 1))).view(np.uint8)
    todo = np.arange(len(masks))
    while len(todo):
        image = result[todo]
        before = image.copy()
        middle = image[:, 1:-1, 1:-1]
        for table in droppable:
            code = np.zeros_like(middle)
            for bit, (dy, dx) in enumerate(((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))):
                code |= image[:, dy : dy + middle.shape[1], dx : dx + middle.shape[2]] << bit
            middle &= ~table[code]
        result[todo] = image
        todo = todo[(image != before).any((1, 2))]
    return result[:, 1:-1, 1:-1].view(np.bool_)


def build_atlas(characters: str | list[str], faces: tuple[str, ...] = FACES) -> Atlas:
    """Draw every character in every face that has it, and measure the distances.

    Raises:
        ValueError: If no face can draw one of the characters.
    """
    masks, owner = [], []
    for i, c in enumerate(characters):
        drawn = [m for f in faces if ord(c) in charmap(f) and (m := rasterise(c, f)) is not None]
        if not drawn:
            raise ValueError(f"No font of matplotlib draws {c!r} (U+{ord(c):04X}); choose another character.")
        masks += drawn
        owner += [i] * len(drawn)
    solid = np.stack(masks)
    edge = np.stack([distance_transform_edt(m) - distance_transform_edt(~m) for m in solid])
    spine = np.stack([distance_transform_edt(~s) for s in thin(solid)])
    return Atlas(torch.from_numpy(edge).half(), torch.from_numpy(spine).half(), torch.tensor(owner, dtype=torch.int64))

"""From distance maps to pictures: warps, pens, paper and colour, a batch at a time, seeded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from scenarios.drawing.atlas import CANVAS, Atlas

SIDE = 32


@dataclass(frozen=True, slots=True)
class Style:
    """How varied the drawings are. Lengths are in canvas pixels (64 to a side), angles in degrees.

    Attributes:
        rotate: Largest rotation.
        scale: Smallest and largest size.
        shear: Largest slant.
        shift: Largest displacement.
        elastic: Typical size of the smooth warp.
        pen: Narrowest and widest half-width of a pen stroke.
        monoline: Share of drawings made with a pen along the skeleton, as in handwriting.
        hollow: Share of drawings that show the outline only.
        coarse: Share of pictures first reduced to 8 to 16 pixels a side.
        colour: 0 for grey pictures, 1 for free hues.
        texture: Contrast of the patterns on paper and ink.
        noise: Standard deviation of pixel noise.
    """

    rotate: float = 12.0
    scale: tuple[float, float] = (0.75, 1.2)
    shear: float = 0.25
    shift: float = 5.0
    elastic: float = 2.2
    pen: tuple[float, float] = (1.0, 4.5)
    monoline: float = 0.6
    hollow: float = 0.0
    coarse: float = 0.3
    colour: float = 0.0
    texture: float = 0.1
    noise: float = 0.03


PLAIN = Style()
STREET = Style(
    rotate=15.0, elastic=2.5, pen=(1.0, 3.5), monoline=0.4, hollow=0.2, coarse=0.0, colour=1.0, texture=0.2, noise=0.04
)


def draw_characters(atlas: Atlas, which: Tensor, style: Style, generator: Generator) -> Tensor:
    """Draw the atlas entries ``which``, each once.

    Args:
        atlas: Distance maps.
        which: ``(n,)`` indices of drawings.
        style: How varied the pictures are.
        generator: Source of all randomness.

    Returns:
        ``(n, 3, 32, 32)`` uint8.
    """
    n = len(which)
    grid = _warp(n, style, generator)
    maps = torch.stack([atlas.edge[which], atlas.spine[which]], 1).float()
    bent = grid_sample(maps, grid, padding_mode="border", align_corners=False)
    ink = _ink(bent[:, :1], bent[:, 1:], style, generator)
    ink = _coarsen(ink, style, generator)
    return _paint(ink, style, generator).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _uniform(n: int, low: float, high: float, g: Generator) -> Tensor:
    return torch.rand(n, 1, 1, 1, generator=g) * (high - low) + low


def _smooth(n: int, channels: int, knots: int, g: Generator) -> Tensor:
    """Return smooth random fields ``(n, channels, 32, 32)`` with about unit variance at the knots."""
    coarse = torch.randn(n, channels, knots, knots, generator=g)
    return interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=True)


def _warp(n: int, style: Style, g: Generator) -> Tensor:
    """Return a sampling grid ``(n, 32, 32, 2)``: an affine map plus a smooth displacement."""
    angle = _uniform(n, -style.rotate, style.rotate, g).deg2rad()[:, 0, 0, 0]
    sx, sy = (1 / _uniform(n, *style.scale, g)[:, 0, 0, 0] for _ in range(2))
    slant = _uniform(n, -style.shear, style.shear, g)[:, 0, 0, 0]
    shift = (torch.rand(n, 2, generator=g) * 2 - 1) * style.shift * 2 / CANVAS
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([sx * cos, sx * (slant - sin), shift[:, 0], sy * sin, sy * cos, shift[:, 1]], 1)
    grid = torch.nn.functional.affine_grid(rows.view(n, 2, 3), [n, 1, SIDE, SIDE], align_corners=False)
    bend = _smooth(n, 2, 5, g).movedim(1, -1) * (style.elastic * 2 / CANVAS)
    return grid + bend


def _ink(edge: Tensor, spine: Tensor, style: Style, g: Generator) -> Tensor:
    """Turn distances into ink between 0 and 1, with a pen, a font's own weight, or a hollow outline."""
    n = len(edge)
    pressure = _uniform(n, *style.pen, g) * (1 + 0.15 * _smooth(n, 1, 4, g)).clamp_min(0.5)
    soft = _uniform(n, 0.5, 1.2, g)
    kind = torch.rand(n, 1, 1, 1, generator=g)
    stroke = pressure - spine
    solid = edge + _uniform(n, -0.8, 1.5, g)
    outline = 0.6 * pressure - (edge - 0.5).abs()
    depth = torch.where(kind < style.monoline, stroke, torch.where(kind > 1 - style.hollow, outline, solid))
    return (depth / soft).sigmoid()


def _coarsen(ink: Tensor, style: Style, g: Generator) -> Tensor:
    """Reduce a share of the pictures to 8, 11 or 16 pixels a side and enlarge them again, as scans are."""
    size = torch.randint(0, 3, (len(ink),), generator=g)
    chosen = torch.rand(len(ink), generator=g) < style.coarse
    if not chosen.any():
        return ink
    for k, side in enumerate((8, 11, 16)):
        rows = chosen & (size == k)
        if rows.any():
            small = avg_pool2d(ink[rows], SIDE // side) if SIDE % side == 0 else interpolate(
                ink[rows], size=(side, side), mode="area")  # fmt: skip
            ink[rows] = interpolate(small, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp_(0, 1)
    return ink


def _paint(ink: Tensor, style: Style, g: Generator) -> Tensor:
    """Lay ink on paper: two colours that differ enough to be seen, patterns on both, noise over all."""
    n = len(ink)
    paper = torch.rand(n, 1, 1, 1, generator=g)
    gap = _uniform(n, 0.35, 1.0, g) * torch.where(paper > 0.5, -1.0, 1.0)
    tone = torch.stack([paper, (paper + gap).clamp(0, 1)])  # (2, n, 1, 1, 1)
    hue = style.colour * (torch.rand(2, n, 3, 1, 1, generator=g) - 0.5)
    knots = 9 if style.texture > 0.2 else 4
    pattern = style.texture * torch.stack([_smooth(n, 3, knots, g), _smooth(n, 3, knots, g)])
    if not style.colour:
        pattern = pattern.mean(2, keepdim=True)
    back, front = tone + hue + 0.5 * pattern
    picture = torch.lerp(back.expand(n, 3, SIDE, SIDE), front.expand(n, 3, SIDE, SIDE), ink)
    return (picture + style.noise * torch.randn(n, 3, SIDE, SIDE, generator=g)).clamp_(0, 1)

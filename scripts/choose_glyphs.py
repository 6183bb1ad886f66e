"""Choose the characters of the `glyphs` data set and of glyph_vit's pre-training, and keep the two apart.

    python scripts/choose_glyphs.py            # writes scenarios/data/glyphs.json

Two drawings look alike when the cosine of their blurred skeletons, over shifts of a few pixels, exceeds `ALIKE`.
Streams get letters of Latin, Greek, Cyrillic and ten more scripts; pre-training gets other scripts and symbols, whole
and turned, and nothing that looks like a digit or like any stream character. Each list is free of look-alikes.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import cl_framework.threads  # noqa: F401  # before torch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, normalize

from scenarios.drawing.atlas import charmap, rasterise, thin

ALIKE = 0.84
FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
STREAM_SCRIPTS = frozenset(
    "LATIN GREEK COPTIC CYRILLIC GEORGIAN ARMENIAN TIFINAGH LISU HEBREW OLD NKO LAO OGHAM".split()  # noqa: SIM905
)
OUT = Path(__file__).parents[1] / "scenarios" / "data" / "glyphs.json"


def candidates() -> list[str]:
    """Return the characters worth drawing: letters and symbols, no marks, boxes, cards or stacked compounds."""
    points = sorted(frozenset().union(*map(charmap, FACES)))
    chosen = []
    for p in points:
        name, kind = unicodedata.name(chr(p), ""), unicodedata.category(chr(p))
        dull = {
            "BRAILLE",
            "BOX",
            "CIRCLED",
            "PARENTHESIZED",
            "SUPERSCRIPT",
            "SUBSCRIPT",
            "LIGATURE",
            "VULGAR",
            "NUMERAL",
        }
        block = 0x1D300 <= p < 0x1D360 or 0x4DC0 <= p < 0x4E00 or p >= 0x1D400
        if name and kind[0] not in "MZC" and kind not in ("Lm", "Sk") and not dull & set(name.split()) and not block:
            chosen.append(chr(p))
    return chosen


def descriptors(masks: NDArray[np.bool_]) -> Tensor:
    """Return blurred skeletons ``(n, 32, 32)`` of masks ``(n, 64, 64)``."""
    distance = np.stack([distance_transform_edt(~s) for s in thin(masks)])
    line = torch.from_numpy(np.clip(3.2 - distance, 0, 2) / 2).float()[:, None]
    kernel = torch.exp(-(torch.arange(-8, 9) ** 2) / (2 * 1.8**2))
    kernel /= kernel.sum()
    blurred = conv2d(line, kernel[None, None, :, None], padding=(8, 0))
    return avg_pool2d(conv2d(blurred, kernel[None, None, None], padding=(0, 8)), 2)[:, 0]


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest cosine ``(len(a), len(b))`` over shifts of up to two pixels."""
    flat = normalize(a.flatten(1), dim=1)
    shifts = [(dy, dx) for dy in (-2, 0, 2) for dx in (-2, 0, 2)]
    return torch.stack([flat @ normalize(torch.roll(b, s, (1, 2)).flatten(1), dim=1).T for s in shifts]).amax(0)


def greedy(drawings: Tensor, blocked: Tensor, title: str) -> list[int]:
    """Keep, in order, each drawing that looks like nothing in ``blocked`` and nothing kept before it."""
    free = alike(drawings, blocked).amax(1) <= ALIKE if len(blocked) else torch.ones(len(drawings), dtype=torch.bool)
    kept: list[int] = []
    for i in track(free.nonzero()[:, 0].tolist(), title):
        if not kept or float(alike(drawings[i : i + 1], drawings[kept]).amax()) <= ALIKE:
            kept.append(i)
    return kept


def masks(characters: list[str]) -> NDArray[np.bool_]:
    """Draw each character in the first face that has it."""
    return np.stack(
        [next(m for f in FACES if ord(c) in charmap(f) and (m := rasterise(c, f)) is not None) for c in characters]
    )


def main() -> None:
    """Choose both lists and write them."""
    every = [c for c in candidates() if any(ord(c) in charmap(f) and rasterise(c, f) is not None for f in FACES)]
    script = {c: unicodedata.name(c).split()[0] for c in every}
    digits = masks(list("0123456789"))
    plain = [c for c in every if script[c] in STREAM_SCRIPTS and len(unicodedata.normalize("NFD", c)) == 1]
    plain.sort(key=lambda c: (ord(c) > 0x24F and script[c] == "LATIN", ord(c)))
    held = descriptors(masks(plain))
    stream = greedy(held, descriptors(digits), "characters for streams")

    rest = [c for c in every if script[c] not in STREAM_SCRIPTS and not c.isdigit()]
    drawn = masks(rest)
    turned = [np.rot90(drawn, k, (1, 2)) for k in range(4)] + [np.flip(drawn, 2)]
    variants = descriptors(np.concatenate(turned))
    names = [(c, k) for k in range(5) for c in rest]
    block = torch.cat(
        [
            held[stream],
            descriptors(digits),
            descriptors(np.flip(digits, 2)),
            *(descriptors(np.rot90(digits, k, (1, 2))) for k in (1, 2, 3)),
        ]
    )
    pretrain = greedy(variants, block, "characters for pre-training")
    OUT.write_text(
        json.dumps(
            {
                "stream": "".join(plain[i] for i in stream),
                "pretrain": ["".join(names[i][0] for i in pretrain if names[i][1] == k) for k in range(5)],
            },
            ensure_ascii=False,
            indent=1,
        )
        + "\n"
    )
    print(f"{len(stream)} characters for streams, {len(pretrain)} drawings for pre-training -> {OUT.name}")


if __name__ == "__main__":
    main()

"""`glyphs`: characters drawn from matplotlib's fonts on coloured, patterned paper, as many as you like."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from cl_framework.errors import UserError
from scenarios.data.atlas import Atlas, build
from scenarios.data.drawing import STREET, draw
from scenarios.data.source import Pictures, Source

CHUNK = 20  # pictures drawn at a time; fixed, so that asking for more images leaves the first ones as they were


def characters() -> list[str]:
    """Return the characters kept for streams, shuffled once and for all so that any first few mix scripts."""
    kept: list[str] = list(json.loads(Path(__file__).with_name("glyphs.json").read_text(encoding="utf-8"))["stream"])
    random.Random(0).shuffle(kept)
    return kept


@lru_cache(maxsize=2)
def load(classes: int = 100, train: int = 60, test: int = 20, seed: int = 0) -> Source:
    """Draw the first ``classes`` characters; picture j of a character is the same however many are asked for.

    Args:
        classes: How many characters.
        train: Training pictures of each.
        test: Test pictures of each.
        seed: Seed of the drawings; the characters are the same for every seed.

    Raises:
        UserError: If there are not that many characters, or a count is below one.
    """
    kept = characters()
    if not 1 <= classes <= len(kept):
        raise UserError(f"glyphs has 1 to {len(kept)} classes, found classes={classes}; choose a number in between.")
    if min(train, test) < 1:
        raise UserError(f"glyphs needs images of every class, found train={train} and test={test}; give at least 1.")
    chosen = tuple(kept[:classes])
    atlas = build(list(chosen))

    def part(split: str, count: int) -> Pictures:
        drawn = [pictures(atlas, i, f"{seed}/{split}/{c}", count) for i, c in enumerate(chosen)]
        return Pictures(split, torch.cat(drawn), torch.arange(classes).repeat_interleave(count))

    return Source("glyphs", part("train", train), part("test", test), chosen)


def pictures(atlas: Atlas, character: int, seed: str, count: int) -> Tensor:
    """Draw one character ``count`` times in faces chosen by lot: ``(count, 3, 32, 32)`` uint8."""
    g = torch.Generator().manual_seed(int.from_bytes(sha256(seed.encode()).digest()[:7], "big"))
    faces = (atlas.character == character).nonzero()[:, 0]
    chunks = []
    for _ in range(-(-count // CHUNK)):
        which = faces[torch.randint(len(faces), (CHUNK,), generator=g)]
        chunks.append(draw(atlas, which, STREET, g))
    return torch.cat(chunks)[:count]

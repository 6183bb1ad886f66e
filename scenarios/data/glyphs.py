"""`glyphs`: characters drawn from matplotlib's fonts on coloured, patterned paper, any number."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.settings import Loader
from scenarios.data.source import Pictures, Source
from scenarios.drawing.atlas import Atlas, build_atlas
from scenarios.drawing.drawing import PLAIN, STREET, Style, draw_characters

LOADER = Loader("glyphs")
_CHUNK = 20  # pictures drawn at a time; fixed, so that more images leave the first ones unchanged

TURNS = ("", " turned 90", " turned 180", " turned 270", " mirrored")


def characters() -> list[str]:
    """Return the characters for streams in one fixed random order, so that the first few mix scripts."""
    kept: list[str] = list(json.loads(Path(__file__).with_name("glyphs.json").read_text(encoding="utf-8"))["stream"])
    random.Random(0).shuffle(kept)
    return kept


def pretraining(classes: int | None = None) -> list[tuple[int, str]]:
    """Return the classes of pre-training, each a turn and a character; their order is that of its head's rows."""
    chosen = json.loads(Path(__file__).with_name("glyphs.json").read_text(encoding="utf-8"))["pretrain"]
    return [(turn, c) for turn, characters in enumerate(chosen) for c in characters][:classes]


def turned(chosen: Sequence[tuple[int, str]]) -> Atlas:
    """Measure characters after 0 to 3 quarter turns, or mirrored where the turn is 4; equal turns stand together."""
    parts, start = [], 0
    for turn, group in groupby(chosen, key=lambda one: one[0]):
        a = build_atlas([c for _, c in group])
        edge, spine = ((torch.rot90(m, turn, (1, 2)) if turn < 4 else m.flip(2)) for m in (a.edge, a.spine))
        parts.append(Atlas(edge, spine, a.character + start))
        start += int(a.character.max()) + 1
    return Atlas(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Atlas)))


@lru_cache(maxsize=2)
def load(classes: int = 100, train: int = 60, test: int = 20, seed: int = 0, known: bool = False) -> Source:
    """Draw the first ``classes`` characters; picture j of a character does not depend on their number.

    Args:
        classes: How many characters.
        train: Training pictures of each.
        test: Test pictures of each.
        seed: Seed of the drawings; the characters are the same for every seed.
        known: Draw the characters that glyph_vit was pre-trained on, as it saw them: class c is row c of its head.

    Raises:
        UserError: If there are not that many characters, or a count is below one.
    """
    kept = pretraining() if known else [(0, c) for c in characters()]
    if not 1 <= classes <= len(kept):
        raise UserError(f"glyphs has 1 to {len(kept)} classes, found classes={classes}; choose a number in between.")
    if min(train, test) < 1:
        raise UserError(f"glyphs needs images of every class, found train={train} and test={test}; give at least 1.")
    chosen, style = kept[:classes], PLAIN if known else STREET
    atlas = turned(chosen)
    names = tuple(c + TURNS[turn] for turn, c in chosen)

    def part(split: str, count: int) -> Pictures:
        drawn = [draw_pictures(atlas, i, f"{seed}/{split}/{c}", count, style) for i, c in enumerate(names)]
        return Pictures(split, torch.cat(drawn), torch.arange(classes).repeat_interleave(count))

    return Source("glyphs", part("train", train), part("test", test), names)


def draw_pictures(atlas: Atlas, character: int, seed: str, count: int, style: Style = STREET) -> Tensor:
    """Draw one character ``count`` times in random faces: ``(count, 3, 32, 32)`` uint8."""
    g = torch.Generator().manual_seed(int.from_bytes(sha256(seed.encode()).digest()[:7], "big"))
    faces = (atlas.character == character).nonzero()[:, 0]
    chunks = []
    for _ in range(-(-count // _CHUNK)):
        which = faces[torch.randint(len(faces), (_CHUNK,), generator=g)]
        chunks.append(draw_characters(atlas, which, style, g))
    return torch.cat(chunks)[:count]

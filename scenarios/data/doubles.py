"""Duplicate samples: in training and test, or under two labels. They make results doubtful."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scenarios.data.source import Pictures, Sentences, Source
from scenarios.pictures.decode import in_parallel

_END_BYTES = 4096
"""Bytes at either end of a file that are compared before the whole file."""
_SHOWN = 3
"""Most samples that are named; further ones are counted."""


class Sample(NamedTuple):
    """A sample of a source: the row of a part."""

    part: Pictures | Sentences
    row: int

    @property
    def called(self) -> str:
        """Its name in messages."""
        name = self.part.describe(torch.tensor([self.row]))
        return f"{self.part.split} sample {name}" if name.isdecimal() else name


def duplicate_warnings(source: Source) -> list[str]:
    """Return a warning for each kind of duplicate, and one for classes without test samples.

    Files are equal if their bytes are, pictures in memory if their pixels are, sentences if their text is.
    """
    samples = [Sample(part, i) for part in (source.train, source.test) for i in range(len(part))]
    groups = [[samples[i] for i in group] for group in alike(source)]
    both = [pair for g in groups if (pair := _unlike(g, lambda s: s.part is source.test))]
    torn = [pair for g in groups if (pair := _unlike(g, lambda s: int(s.part.labels[s.row])))]
    noun, warnings = source.train.noun, []

    def shown(pairs: Sequence[Sequence[Sample]]) -> str:
        lines = [
            " = ".join(f"{s.called} ({source.class_names[int(s.part.labels[s.row])]})" for s in pair)
            for pair in pairs[:_SHOWN]
        ]
        return ", ".join(lines) + (", ..." if len(pairs) > _SHOWN else "")

    if both:
        warnings.append(
            f"The training split shares {_count(len(both), noun)} with the test split, which inflates accuracy: "
            f"{shown(both)}; remove one of each."
        )
    if torn:
        warnings.append(f"Two labels are given to {_count(len(torn), noun)}: {shown(torn)}; keep one of each.")
    if close := _close(source.class_names):
        names = ", ".join(" = ".join(map(repr, pair)) for pair in close[:_SHOWN]) + (", ..." if close[_SHOWN:] else "")
        warnings.append(
            f"Names of classes differ only in case or spaces: {names}; write each one way, or they are apart."
        )
    if bare := source.unexamined:
        names = ", ".join(bare[:_SHOWN]) + (", ..." if len(bare) > _SHOWN else "")
        warnings.append(f"No test {noun} are there for {_count(len(bare), 'classes')}: {names}; they are not tested.")
    return warnings


def _close(names: Sequence[str]) -> list[list[str]]:
    """Return groups of names that differ in case or separators only; single letters differ.

    >>> _close(["Tabby cat", "dog", "tabby_cat", "A", "a"])
    [['Tabby cat', 'tabby_cat']]
    """
    spellings = [re.sub(r"[\s_-]+", " ", n).strip().casefold() if len(n) > 1 else n for n in names]
    groups = grouped(range(len(names)), spellings)
    return [[names[i] for i in group] for group in groups]


def alike(source: Source) -> list[list[int]]:
    """Return groups of rows with the same content, training and test rows numbered as one."""
    keys: list[Hashable] = []
    files: list[Path | None] = []
    for part in (source.train, source.test):
        if isinstance(part, Sentences):
            keys += part.sentences
            files += [None] * len(part)
        elif isinstance(part.images, Tensor):
            keys += [blake2b(image.contiguous().numpy().tobytes()).digest() for image in part.images]
            files += [None] * len(part)
        else:
            keys += in_parallel(_size, part.images)
            files += part.images
    groups = grouped(range(len(keys)), keys)
    for finer in (_ends, _whole):
        wanted = [i for group in groups for i in group if files[i] is not None]
        known = dict(zip(wanted, in_parallel(finer, [Path(files[i] or "") for i in wanted]), strict=True))
        groups = [part for group in groups for part in grouped(group, [known.get(i) for i in group])]
    return groups


def grouped(rows: Iterable[int], keys: Sequence[Hashable]) -> list[list[int]]:
    """Return rows of equal keys together, where there are several.

    >>> grouped([4, 5, 6], ["a", "b", "a"])
    [[4, 6]]
    """
    by_key = defaultdict(list)
    for row, key in zip(rows, keys, strict=True):
        by_key[key].append(row)
    return [group for group in by_key.values() if len(group) > 1]


def _size(file: Path) -> Hashable:
    with suppress(OSError):
        return file.stat().st_size
    return str(file)


def _ends(file: Path) -> Hashable:
    with suppress(OSError), file.open("rb") as opened:
        first = opened.read(_END_BYTES)
        opened.seek(max(0, file.stat().st_size - _END_BYTES))
        return blake2b(first + opened.read(_END_BYTES)).digest()
    return str(file)


def _whole(file: Path) -> Hashable:
    with suppress(OSError):
        return blake2b(file.read_bytes()).digest()
    return str(file)


def _unlike(group: Sequence[Sample], of: Callable[[Sample], object]) -> list[Sample]:
    """Return the first sample and the first that differs from it; none if all are alike."""
    other = next((s for s in group if of(s) != of(group[0])), None)
    return [] if other is None else [group[0], other]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n != 1 else {"classes": "1 class"}.get(noun, f"1 {noun[:-1]}")

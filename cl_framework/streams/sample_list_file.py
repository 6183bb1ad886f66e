"""The file that holds the list of a run's samples: JSON, repeated numbers counted and ids as differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any, TypeAlias, get_args

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage.typed_records import RESTORE, parsed, typed
from cl_framework.streams.sample_list import ListedSource, Split, SplitRows

_SPLITS = get_args(Split)


FOLDER = "samples"
"""Where a run keeps its list, under the name of the event that wrote it last."""


Counted: TypeAlias = list[tuple[int, int]]
"""Run-length encoding: numbers, each with its repeats."""


class _Whole(msgspec.Struct):
    sources: list[dict[str, Any] | None]


_NOTHING = {"split": "", "ids": [], "labels": [], "places": [], "digests": []}


class _Written(msgspec.Struct, kw_only=True):
    """Rows as stored in the file: repeated numbers are counted, ids are differences."""

    split: str
    steps: Counted
    labels: Counted
    places: list[str]
    digests: list[str]
    experiences: Counted
    columns: list[dict[str, str]]
    gone: Counted
    content: str


def encode_list(sources: Sequence[ListedSource | None]) -> bytes:
    """Return the list as JSON."""
    records = [
        source and {**msgspec.structs.asdict(source), "train": _written(source.train), "test": _written(source.test)}
        for source in sources
    ]
    return msgspec.json.encode({"sources": records}) + b"\n"


def decode_list(raw: bytes, place: Path | str = FOLDER) -> list[ListedSource | None]:
    """Return the list that `encode_list` wrote.

    Raises:
        UserError: If a field has another type, or columns do not fit together.
    """
    sources: list[ListedSource | None] = []
    for each in parsed(raw, _Whole, place).sources:
        rows = {k: _read(typed((each or {}).get(k), _Written, f"{place}, {k},"), place) for k in _SPLITS if each}
        source = None if each is None else typed({**each, **dict.fromkeys(_SPLITS, _NOTHING)}, ListedSource, place)
        if source is not None:
            source.train, source.test = rows["train"], rows["test"]
            for part in rows.values():
                inside = (part.labels, source.class_names), (part.experiences, source.experiences)
                if any(max(numbers, default=-1) >= len(names) for numbers, names in inside):
                    raise UserError(f"{place} is damaged at sources: a row names what is not there; {RESTORE}.")
        sources.append(source)
    return sources


def runs(numbers: Iterable[int]) -> Counted:
    """Return the run-length encoding of numbers.

    >>> runs([4, 4, 7])
    [(4, 2), (7, 1)]
    """
    return [(number, sum(1 for _ in group)) for number, group in groupby(numbers)]


def unrolled(pairs: Counted) -> list[int]:
    """Return the numbers that `runs` encoded.

    >>> unrolled([(4, 2), (7, 1)])
    [4, 4, 7]
    """
    return [number for number, count in pairs for _ in range(count)]


def _written(rows: SplitRows) -> _Written:
    return _Written(
        split=rows.split,
        steps=runs(b - a for a, b in pairwise([0, *rows.ids])),
        labels=runs(rows.labels),
        places=rows.places,
        digests=rows.digests,
        experiences=runs(rows.experiences),
        columns=rows.columns,
        gone=runs(int(i in rows.gone) for i in range(len(rows.ids))),
        content=rows.content,
    )


def _read(written: _Written, place: Path | str) -> SplitRows:
    rows = SplitRows(
        split=written.split,
        ids=list(accumulate(unrolled(written.steps))),
        labels=unrolled(written.labels),
        places=written.places,
        digests=written.digests,
        experiences=unrolled(written.experiences),
        columns=written.columns,
        gone={i for i, gone in enumerate(unrolled(written.gone)) if gone},
        content=written.content,
    )
    sizes = {len(rows.ids), len(rows.labels), len(rows.places), len(rows.digests)}
    sizes |= {len(column) for column in (rows.experiences, rows.columns) if column}
    if len(sizes) > 1:
        raise UserError(f"{place} is damaged at rows: its columns differ in length; {RESTORE}.")
    return rows

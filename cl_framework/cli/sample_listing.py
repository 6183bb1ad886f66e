"""``clf list samples RUN``: the samples that a run learned from and has not forgotten. Needs no torch."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Collection, Sequence
from typing import Any

from rich.cells import cell_len  # which loads nothing else of rich

from cl_framework.errors import UserError, did_you_mean
from cl_framework.operations.known_samples import Known
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.sample_list import ListedSample
from cl_framework.terminal.safe_text import printable, say

EPILOG = """examples:
  clf list samples runs/pets
  clf list samples runs/pets --classes cat --experiences task-1
  clf list samples runs/said --where user=alice --json

The words of the columns `id` and `place` are what `clf forget RUN --samples` takes. Ids stay the same whatever is
forgotten, learned later, or added to the data; what is forgotten is not listed."""


def print_samples(argv: Sequence[str]) -> int:
    """Print a line for each sample: id, place, class, experience, and the columns of its table."""
    parser = ArgumentParser(
        "clf list samples",
        description="Show the samples that a run learned from and has not forgotten.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="RUN", help="the run directory")
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="only of these classes")
    parser.add_argument("--experiences", nargs="+", default=[], metavar="NAME", help="only from these experiences")
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="rows with this value")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table, with hashes of contents")
    args = parser.parse_args(argv)
    run = RunDirectory.open(args.dir)
    known = Known.of(run)
    if not any(known.sources):
        raise UserError(
            f"{run.path} keeps no list of its samples: it was made before runs kept one, or its data have none. "
            "Requests name samples by id."
        )
    samples = known.where(args.where)
    for asked, name in ((args.classes, "class_name"), (args.experiences, "experience")):
        known_names = {getattr(s, name) for s in known.samples}
        if strange := [a for a in asked if a not in known_names]:
            kind = name.removesuffix("_name")
            raise UserError(f"No sample of {kind} {strange[0]!r} is there. {did_you_mean(strange[0], known_names)}")
        samples = [s for s in samples if not asked or getattr(s, name) in asked]
    say(json.dumps([_told(s) for s in samples], indent=1, ensure_ascii=False)) if args.json else _table(samples)
    return 0


def _told(sample: ListedSample) -> dict[str, Any]:
    place, columns = sample.place or None, sample.columns
    record = {"id": sample.id, "place": place, "class": sample.class_name, "experience": sample.experience}
    return record | {"columns": columns, "sha256": sample.digest or None}


def _table(samples: Collection[ListedSample]) -> None:
    columns = list(dict.fromkeys(name for s in samples for name in s.columns))
    heads = ["id", "place", "class", "experience", *map(printable, columns)]
    rows = [
        [str(s.id), *(printable(t or "-") for t in (s.place, s.class_name, s.experience, *map(s.columns.get, columns)))]
        for s in samples
    ]
    sizes = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):  # nothing is folded, so that a line is a sample
        cells = (text + " " * (size - cell_len(text)) for text, size in zip(row, sizes, strict=True))
        say("  ".join(cells).rstrip())
    say(f"{len(rows)} samples" if len(rows) != 1 else "1 sample", error=True)

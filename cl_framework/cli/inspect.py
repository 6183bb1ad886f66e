"""Verbs that need no model, and import no torch."""

from __future__ import annotations

import json
import shutil
import textwrap
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from cl_framework.cli import listing
from cl_framework.errors import UserError
from cl_framework.evaluation import summary as evaluation_summary
from cl_framework.runs.records import EventRecord
from cl_framework.settings import discovery
from cl_framework.terminal import grid
from cl_framework.terminal.safe_text import printable, say

COLUMNS = {
    "strategy": ("strategy",),
    "average incremental": ("average_incremental_accuracy",),
    "final": ("final_accuracy",),
    "forgetting": ("forgetting_max_past",),
    "plasticity": ("plasticity",),
    "seconds": ("cost", "seconds"),
}
"""Columns of `report`, and their places in ``results.json``."""
OVERLAP = {"overlap in": ("overlap", "mean_input"), "overlap out": ("overlap", "mean_output")}
"""Further columns for runs whose adapters have comparable subspaces."""


def list_classes(argv: Sequence[str]) -> int:
    """``clf list``: print the classes of a kind, one line each; of ``samples``, those of a run."""
    if argv and argv[0] == "samples":
        from cl_framework.cli import sample_listing

        return sample_listing.print_samples(argv[1:])
    parser = ArgumentParser(
        "clf list",
        description="Show what a config may name, the data sources and the metrics, with a line about each.",
        epilog="examples:\n  clf list strategies\n  clf list datasets\n  clf list metrics --json\n"
        "  clf list samples runs/quickstart",
        formatter_class=RawDescriptionHelpFormatter,
    )
    kinds = ", ".join(listing.LISTED_KINDS)
    parser.add_argument("kind", nargs="?", help=f"one of {kinds}; all of them if left out; or: samples RUN")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    by_kind = {kind: listing.entries(kind) for kind in ([args.kind] if args.kind else listing.LISTED_KINDS)}
    if args.json:
        rows = {kind: [asdict(entry) for entry in entries] for kind, entries in by_kind.items()}
        say(json.dumps(rows[args.kind] if args.kind else rows, indent=1))
        return 0
    columns = shutil.get_terminal_size((100, 24)).columns
    for kind, entries in by_kind.items():
        if len(by_kind) > 1:
            say(f"{kind}:")
        for entry in entries:
            say("\n".join(_described(entry, max(len(e.name) for e in entries), columns)))
        if not entries:
            say(f"  no {kind} are installed")
    return 0


def _described(entry: discovery.Entry, width: int, columns: int) -> list[str]:
    """Return a name and the line about it, folded beside the name; below it where names are long."""
    hang = 4 + width if width <= columns // 3 else 6
    first, summary = f"  {printable(entry.name)}", textwrap.wrap(entry.summary, max(columns - hang, 20)) or [""]
    if len(first) + 2 > hang:
        return [first, *(" " * hang + line for line in summary)]
    return [f"{first:<{hang}}{summary[0]}", *(" " * hang + line for line in summary[1:])]


def verify(argv: Sequence[str]) -> int:
    """``clf verify``: print every problem of a run; return 1 if there is one."""
    from cl_framework.operations import verification
    from cl_framework.runs import receipts
    from cl_framework.runs.directory import RunDirectory

    parser = ArgumentParser("clf verify", description="Check every file and receipt of a run against its hash.")
    parser.add_argument("dir", type=Path, help="the run directory")
    parser.add_argument("--public", metavar="PUB.pem", help="also check signatures against this Ed25519 public key")
    parser.add_argument(
        "--last", metavar="HASH", help="also refuse a copy from before the receipt with this hash, which forget printed"
    )
    args = parser.parse_args(argv)
    run = RunDirectory.open(args.dir)
    problems = verification.problems(run, args.last, args.public)
    if problems:
        say("\n".join(map(printable, problems)))  # each on its line, whatever a file is called
        return 1
    trial = f"; a trial with {run.manifest.trial}, no result" if run.manifest.trial else ""
    events, lines = run.events(), receipts.read_receipts(run.path)
    signed = _signed(events, bool(lines)) if args.public else ""
    counted = f"{_count(len(events), 'event')}, {_count(len(lines), 'receipt')}"
    say(grid.folded(f"{counted}, all hashes match{signed}{trial}", grid.terminal_width()))
    return 0


def _signed(events: Sequence[EventRecord], any_receipt: bool) -> str:
    """Print how far valid signatures reach: to the last forget event, not beyond it."""
    if not any_receipt:
        return ", nothing is signed"
    last = max(i for i, e in enumerate(events) if e.receipt is not None)
    later = len(events) - 1 - last
    return f", signatures valid up to {events[last].folder}" + (
        f"; {_count(later, 'later event')} unsigned" if later else ""
    )


def report(argv: Sequence[str]) -> int:
    """``clf report``: print a table with a row for each run."""
    parser = ArgumentParser("clf report", description="Compare the results of runs; accuracies are in percent.")
    parser.add_argument("dir", type=Path, nargs="+", help="run directories")
    by_path = {path: _results(path) for path in parser.parse_args(argv).dir}
    trials = {path: str(r["trial"]) for path, r in by_path.items() if r and r.get("trial")}
    by_path = {path: r for path, r in by_path.items() if path not in trials}
    columns = COLUMNS | (OVERLAP if any((r or {}).get("overlap") for r in by_path.values()) else {})
    rows = [[printable(p), *(_cell(r or {}, at) for at in columns.values())] for p, r in by_path.items()]
    grid.say_table(["run", *columns], rows, texts=2)
    for path in [path for path, results in by_path.items() if results is None]:
        say(f"{path} has no results yet; `clf resume {path}` finishes it.")
    for path, trial in trials.items():
        say(f"{path} is left out: {trial} is a trial, and its numbers are no result.")
    return 0


def _results(path: Path) -> dict[str, Any] | None:
    """Read the results of a run; None when it has none yet."""
    if not path.is_dir():
        raise UserError(f"There is no run at {path}; `clf run --config FILE --run_dir {path}` makes one.")
    summary = evaluation_summary.read_summary(path)
    return None if summary is None else msgspec.to_builtins(summary)


def _cell(results: Mapping[str, Any], place: Sequence[str]) -> str:
    """Return one value as text: accuracies in percent, seconds as they are, a dash for what is not there."""
    value: Any = results
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, int | float):
        return f"{value:.1f}" if place[-1] == "seconds" else f"{100 * value:.1f}"
    return printable(value) if isinstance(value, str) else "-"


def _count(n: int, noun: str) -> str:
    """Return a number and its noun.

    >>> _count(1, "event"), _count(2, "event")
    ('1 event', '2 events')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"

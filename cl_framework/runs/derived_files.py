"""Index of files derived from the events: results, figures, an audit. It holds the hash of each file.

To add a derived file, write it with `files.replace` and then call `add`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage import files as storage_files
from cl_framework.storage.files import read_listed
from cl_framework.storage.typed_records import Count, Digest, FileEntry

INDEX = "outputs.json"
RESULTS = ("results.json", "results.csv", "figures/accuracy.png")
"""Files of every finished run; they hold class names, so the next forget request replaces them."""

MAY = (*RESULTS, "audit.json")
"""Files that must be in the index if they exist."""


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entry of a file: hash, size, and the number of events when it was made."""

    sha256: Digest
    bytes: Count
    events: Count = 0

    @property
    def file(self) -> FileEntry:
        """Hash and size alone."""
        return FileEntry(self.sha256, self.bytes)


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the index: files by place within the run."""

    files: dict[str, Output]


def recorded_files(run: Path) -> dict[str, Output]:
    """Return the entry of each file, by place.

    Raises:
        UserError: If the index was edited.
    """
    return storage_files.unseal(run / INDEX, Index).files if (run / INDEX).exists() else {}


def add(run: Path, places: Iterable[str], events: int) -> None:
    """Add files as they are now.

    Args:
        run: The run directory.
        places: Where in the run they are, such as ``audit.json``.
        events: How many events the run has; files made from fewer are out of date after a forget request.

    Raises:
        UserError: If the index was edited.
    """
    entries = {place: storage_files.entry((run / place).read_bytes()) for place in places}
    new = {place: Output(listed.sha256, listed.bytes, events) for place, listed in entries.items()}
    _write(run, {**recorded_files(run), **new})


def drop(run: Path, places: Iterable[str] = RESULTS) -> None:
    """Remove files from the index, before they are written again."""
    known, gone = recorded_files(run), set(places)
    if gone & known.keys():
        _write(run, {p: entry for p, entry in known.items() if p not in gone})


def expire(run: Path, events: int) -> None:
    """Delete results of fewer than ``events`` events: the last event made the run forget classes that they name."""
    known = recorded_files(run)
    old = [p for p in RESULTS if (run / p).exists() and (p not in known or known[p].events < events)]
    if old:
        drop(run, old)
        for place in old:
            storage_files.remove(run / place)
            storage_files.sync((run / place).parent)


def index_problems(run: Path) -> list[str]:
    """Return every problem, each naming a file."""
    try:
        known = recorded_files(run)
    except UserError as error:
        return [f"{str(error).partition(';')[0]}; delete it, and `clf resume {run}` writes it again."]
    problems = [
        f"{run / p} is not in {INDEX}; `clf resume {run}` writes results again, `clf audit {run}` an audit."
        for p in MAY
        if (run / p).exists() and p not in known
    ]
    for place, entry in known.items():
        try:
            read_listed(run / place, entry.file)
        except UserError as error:
            problems.append(str(error))
    return problems


def _write(run: Path, files: dict[str, Output]) -> None:
    storage_files.replace(run / INDEX, storage_files.seal({"files": {p: files[p] for p in sorted(files)}}))

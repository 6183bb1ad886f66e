"""Checks that the file or folder of a data source exists."""

from __future__ import annotations

from pathlib import Path

from cl_framework.errors import UserError

GIVE = {
    "imagefolder": ("folder", "the one that holds train/ and test/, or a folder per class"),
    "csv": ("file", "a CSV with columns path,label[,split] or text,label[,split]"),
    "json": ("file", "a JSON file"),
}
"""What each source reads, and what to give."""

_KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
"""Which source reads files of an ending."""


def check_present(kind: str, subject: str) -> None:
    """Make sure that what a source of this kind reads is there.

    Raises:
        UserError: If it is not.
    """
    if kind in GIVE:
        kind_of_place, give = GIVE[kind]
        path = Path(subject).expanduser()
        if path.is_dir() if kind_of_place == "folder" else path.is_file():
            return
        if path.exists() and (named := spelled(subject)):
            raise UserError(f"{subject} is no {kind_of_place}; give {named}, or {give}.")
        raise UserError(f"There is no {kind_of_place} {subject}; give {give}.")


def spelled(subject: str) -> str | None:
    """Return how data at a path are named; None where there is nothing, or nothing that a source reads."""
    path = Path(subject).expanduser()
    if path.is_dir():
        return f"imagefolder:{subject}"
    kind = _KINDS.get(path.suffix.lower()) if path.is_file() else None
    return f"{kind}:{subject}" if kind else None

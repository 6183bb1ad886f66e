"""Checks that the file or folder of a data source exists."""

from __future__ import annotations

from pathlib import Path

from cl_framework.errors import UserError
from cl_framework.settings import Loader, data_loaders


def check_present(loader: Loader, subject: str) -> None:
    """Make sure that what a source reads is there.

    Args:
        loader: What reads it.
        subject: The path.

    Raises:
        UserError: If it is not.
    """
    path, kind_of_place = Path(subject).expanduser(), loader.reads
    if not kind_of_place or (path.is_dir() if kind_of_place == "folder" else path.is_file()):
        return
    if path.exists() and (named := spelled(subject)):
        raise UserError(f"{subject} is no {kind_of_place}; give {named}, or {loader.give}.")
    raise UserError(f"There is no {kind_of_place} {subject}; give {loader.give}.")


def spelled(subject: str) -> str | None:
    """Return how data at a path are named; None where there is nothing, or nothing that a source reads."""
    path = Path(subject).expanduser()
    if path.is_dir():
        return f"imagefolder:{subject}"
    ending = path.suffix.lower() if path.is_file() else ""
    fitting = (each.loader.prefix for each in data_loaders.loader_files() if ending in each.loader.endings)
    kind = next(fitting, None)
    return f"{kind}:{subject}" if kind else None

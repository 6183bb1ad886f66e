"""Whether the file or folder that a data source names is there."""

from __future__ import annotations

from pathlib import Path

from cl_framework.errors import UserError

GIVE = {
    "imagefolder": ("folder", "the one that holds train/ and test/, or a folder per class"),
    "csv": ("file", "a CSV with columns path,label[,split] or text,label[,split]"),
    "json": ("file", "a JSON file"),
}
"""What each source reads, and what to give."""


def check(kind: str, subject: str) -> None:
    """Make sure that what a source of this kind reads is there.

    Raises:
        UserError: If it is not.
    """
    if kind in GIVE:
        what, give = GIVE[kind]
        path = Path(subject).expanduser()
        if not (path.is_dir() if what == "folder" else path.is_file()):
            raise UserError(f"There is no {what} {subject}; give {give}.")

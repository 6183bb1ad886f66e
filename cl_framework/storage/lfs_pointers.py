"""Git LFS pointers: the few lines of text in place of a file that was never fetched."""

from __future__ import annotations

from pathlib import Path

BEGINS = b"version https://git-lfs.github.com/spec/"


def unfetched(path: Path) -> str | None:
    """Say what to do if a file is such a pointer; None if it is not, or cannot be opened."""
    try:
        with path.open("rb") as file:
            if file.read(len(BEGINS)) != BEGINS:
                return None
    except OSError:
        return None
    return "a pointer of Git LFS in place of the file: fetch it with `git lfs pull`"

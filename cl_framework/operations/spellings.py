"""How a person may write the place of a sample: paths, lines of a table, patterns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

LINE = re.compile(r"(?P<file>.+):(?P<number>[0-9]+)")
"""A line of a table or a record, as editors and compilers write it."""


def translated(pattern: str) -> str:
    """Return a pattern of paths as a regular expression: ``*`` and ``?`` stay in a folder, ``**`` does not.

    >>> [bool(re.fullmatch(translated(p), "a/b/c.png")) for p in ("a/*.png", "a/**/*.png", "**/?.png", "[a-b]/b/c.*")]
    [False, True, True, True]
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def one(part: str) -> str:
        if part in known:
            return known[part]
        if part.startswith("[") and part.endswith("]") and len(part) > 2:
            inner = part[1:-1].replace("\\", "\\\\")
            return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
        return re.escape(part)

    return "".join(map(one, parts))


def is_pattern(word: str) -> bool:
    """Tell whether a word is a pattern of places."""
    return any(c in word for c in "*?[")


def spellings_of(word: str) -> Iterator[str]:
    """Yield a word as places may be told: as it is, as a path seen from here, as a line of a table."""
    yield word.removeprefix("./")
    if at := LINE.fullmatch(word):
        for file in (last_part(at["file"]), os.path.abspath(at["file"])):
            yield from (f"{file}, {unit} {at['number']}" for unit in ("line", "record"))
    path = os.path.expanduser(word)
    yield os.path.abspath(path)
    yield os.path.realpath(path)


def last_part(place: str) -> str:
    """Return what stands after the last slash."""
    return place.rpartition("/")[2]

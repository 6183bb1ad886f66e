r"""Untrusted text made safe to print: names of classes and files are data, never control codes.

Everything the product prints goes through here or through `console`; `tests/test_printing.py` checks that.
"""

from __future__ import annotations

import sys
import unicodedata

DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters without a shape that change the order in which their neighbours are shown."""
OBEYED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, halves of pairs, and separators of lines and paragraphs."""


def printable(text: object, lines: bool = False) -> str:
    r"""Return text in which characters that a terminal would obey are spelled as escapes.

    >>> printable("cat\x1b[31m"), printable("a\nb"), printable("a\nb", lines=True), printable("日本 [/b] é")
    ('cat\\x1b[31m', 'a\\nb', 'a\nb', '日本 [/b] é')

    Args:
        text: Anything.
        lines: Keep line ends and tabs, for text of several lines; names have neither.
    """
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or not _obeyed(c) else c.encode("unicode_escape").decode() for c in str(text))


def _obeyed(c: str) -> bool:
    return c in DIRECTIONS or unicodedata.category(c) in OBEYED


def say(text: object = "", error: bool = False) -> None:
    """Print lines without layout, to stderr for an ``error``."""
    print(printable(text, lines=True), file=sys.stderr if error else sys.stdout)

"""Errors for users: one sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import final

from cl_framework.terminal.safe_text import printable

__all__ = ["UserError", "did_you_mean"]


class UserError(Exception):
    """An error that the user can correct. The command line prints the sentence and exits with code 2."""


@final
class MissingSample(UserError):
    """A sample that is to be read is missing, or its content has ``changed``."""

    def __init__(self, message: str, changed: bool = False) -> None:
        """Store the message."""
        super().__init__(message)
        self.changed = changed


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a hint that ends a sentence: the closest option, or all of them.

    >>> did_you_mean("EASY", ["EASE", "Joint"])
    "Did you mean 'EASE'?"
    >>> did_you_mean("x", ["EASE", "Joint"])
    'Choose one of: EASE, Joint.'
    """
    known = sorted(options)
    folded = {o.lower(): o for o in known}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f"Did you mean {folded[close[0]]!r}?" if close else f"Choose one of: {', '.join(map(printable, known))}."


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names for a sentence.

    >>> some_of(["a.png", "b.png", "c.png", "d.png"])
    'a.png, b.png, c.png, ...'
    """
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])

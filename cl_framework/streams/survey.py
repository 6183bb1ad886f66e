"""Check of the data before a run: what cannot be read, and what makes results doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from cl_framework.errors import UserError
from cl_framework.terminal.safe_text import printable

_SHOWN = 20
"""Most samples that are named; further ones are counted."""
MANY = 2000
"""Number of files from which a progress bar is shown."""


class Watch(Protocol):
    """Progress of a check."""

    def __call__(self, done: int, total: int, /) -> None:
        """Note that ``done`` of ``total`` files have been checked."""


def unwatched(done: int, total: int) -> None:
    """Ignore progress."""


@final
@dataclass(frozen=True, slots=True)
class Survey:
    """Result of a check of the data.

    Attributes:
        unreadable: A sentence for each sample that cannot be read.
        warnings: A sentence for each problem that makes results doubtful.
    """

    unreadable: Sequence[str] = ()
    warnings: Sequence[str] = ()


def unreadable_error(unreadable: Sequence[str], left: str = "") -> UserError:
    """Return what to raise where samples cannot be read and may not be left out.

    Args:
        unreadable: A sentence for each.
        left: Why the rest cannot be used either; skipping is then not offered.

    >>> print(unreadable_error(["a.png: empty.", "b.png: empty."]))
    2 samples cannot be read; fix them, or leave them out (--skip_unreadable):
      a.png: empty.
      b.png: empty.
    >>> print(unreadable_error(["a.png: empty."], "No class has images."))
    No class has images. 1 sample cannot be read:
      a.png: empty.
    """
    if left:
        some = "1 sample" if len(unreadable) == 1 else f"{len(unreadable):,} samples"
        return UserError("\n".join([f"{left} {some} cannot be read:", *_listed(unreadable)]))
    if len(unreadable) == 1:
        return UserError(f"{printable(unreadable[0])} Or leave it out (--skip_unreadable).")
    head = f"{len(unreadable):,} samples cannot be read; fix them, or leave them out (--skip_unreadable):"
    return UserError("\n".join([head, *_listed(unreadable)]))


def _listed(sentences: Sequence[str]) -> list[str]:
    """Return the first sentences as lines, and how many more there are."""
    more = [f"  ... and {len(sentences) - _SHOWN:,} more"] if len(sentences) > _SHOWN else []
    return [*(f"  {printable(s)}" for s in sentences[:_SHOWN]), *more]


@final
class Bar:
    """A progress bar on a terminal, shown for many files; a context manager."""

    def __init__(self, console: Console) -> None:
        """Show nothing yet."""
        self.progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task("looking at files", visible=False)

    def __enter__(self) -> Bar:
        """Begin."""
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self.progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Advance the bar."""
        self.progress.update(self.task, completed=done, total=total, visible=total >= MANY)


def survey_report(survey: Survey, skip: bool, console: Console) -> None:
    """Print the result of a survey.

    Raises:
        UserError: If samples cannot be read and are not to be skipped.
    """
    if survey.unreadable and not skip:
        raise unreadable_error(survey.unreadable)
    if survey.unreadable:
        some = "1 sample" if len(survey.unreadable) == 1 else f"{len(survey.unreadable):,} samples"
        lines = [f"Left out {some} that cannot be read:", *_listed(survey.unreadable)]
        console.print(Text("\n".join(lines)), soft_wrap=True)
    for warning in survey.warnings:
        console.print(Text(f"warning: {printable(warning)}", "yellow"), soft_wrap=True)

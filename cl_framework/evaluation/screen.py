"""A run on a terminal while it goes on: each request as it begins, and the table as it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cl_framework.evaluation import staying, tables
from cl_framework.streams.events import Event, Experience, ForgetRequest, Step
from cl_framework.streams.identifiers import called
from cl_framework.terminal.safe_text import printable

_SHOWN = 6
"""Names of classes that are shown of a request."""


class Labelled(Protocol):
    """A progress bar with a label.

    Attributes:
        label: What is being done.
    """

    label: str


@final
class Screen:
    """Shows what a journal hears.

    Args:
        console: Where to print.
        class_names: What each class id is called.
        total: How many events there will be.
        bar: Shown while a request trains; it is given the request's name.
    """

    def __init__(self, console: Console, class_names: Sequence[str], total: int, bar: Labelled) -> None:
        """Begin with nothing shown."""
        self.bar = bar
        self.console, self.class_names, self.total, self._headed = console, class_names, total, False

    def starts(self, step: Step, done: int) -> None:
        """Print a request, and name it on the progress bar.

        Args:
            step: What begins.
            done: How many events there were before.
        """
        event = step.event
        self.bar.label = f"    training {printable(event.name)}"
        verb = "learn" if isinstance(event, Experience) else "forget"
        shown = f"{done + 1}/{self.total} {verb} {printable(event.name)} ({self._contents(event)})"
        text = Text(shown, "bold")
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=self.total, completed=done, width=24), text)
        self.console.print(line if self.console.is_terminal else text, soft_wrap=not self.console.is_terminal)

    def ends(self, results: Mapping[str, Any]) -> None:
        """Print the table of the results so far; of it only the new row where no terminal shows it."""
        if self.console.is_terminal:
            self.console.print(tables.table(results, self.console.width))
        else:
            self.console.print(tables.newest(results, head=not self._headed))
            self._headed = True

    def _contents(self, event: Event) -> str:
        names = ", ".join(printable(self.class_names[c]) for c in event.classes[:_SHOWN])
        names += " ..." if len(event.classes) > _SHOWN else ""
        count = f"{len(event.data):,} sample{'' if len(event.data) == 1 else 's'}"
        if isinstance(event, ForgetRequest) and event.stays:
            live = staying.staying_sentence(event.stays, lambda c: self.class_names[c])
            return f"{f'{names}; ' if names else ''}{count} in all; {live}"
        if isinstance(event, Experience) and event.relearned:
            back = (f"{called(new, self.class_names)} was id:{old}" for new, old in event.relearned.items())
            return f"{names or count}; forgotten before: {', '.join(back)}"
        return names or count

"""The console that results are shown on: text is never read as markup, and nothing in it moves the cursor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from cl_framework.terminal.safe_text import printable


def make_console(**options: Any) -> Console:
    """Return a console of rich that takes text as it is; ``options`` are those of rich.

    Style is given by `rich.text.Text`, never by markup in brackets. Names that may hold control characters go through
    `printable` first, so that a table measures what it shows; any that remain are escaped here.
    """
    console = Console(markup=False, emoji=False, highlight=False, **options)
    console.push_render_hook(_SpellingOut())
    return console


@final
class _SpellingOut(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_SpelledOut(r) for r in renderables]


@dataclass(frozen=True, slots=True)
class _SpelledOut:
    """A renderable with control characters in its text as escapes; those of rich itself are kept."""

    shown: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):
            yield segment if segment.control else Segment(printable(segment.text, lines=True), segment.style)


CONSOLE = make_console()

"""Tables that cut no number: text is folded, and columns of numbers that do not fit follow in a table below."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

from rich.cells import cell_len, chop_cells  # loads nothing else of rich

from cl_framework.terminal.safe_text import say

if TYPE_CHECKING:
    from rich.console import Console

TableCell: TypeAlias = str | tuple[str, str]
"""Text, or text and the style that rich gives it."""
Row: TypeAlias = Sequence[TableCell]

_GAP = 2
"""Columns of a terminal between two columns of a table."""
LEAST = 12
"""Width that each column of text keeps, if it needs so much, before numbers move below."""
WHOLE = 10_000
"""The width where no terminal shows a table: a line for each row, for programs that read it."""
_PLACES = re.compile(r"(?<=[\s_/,:.-])(?!(?<=\d[,:.-])\d)(?=[^\s_/,:.-])")
"""Where a line may end: after a blank or a mark, but not within a number."""


def print_table(console: Console, heads: Sequence[str], rows: Sequence[Row], texts: int = 1, title: str = "") -> None:
    """Print a table: as wide as the terminal, or a line for each row where there is no terminal.

    Args:
        console: Where to print.
        heads: What stands above each column; nothing does if there are none.
        rows: Cells of each row, as `printable` returns them; line ends in them are kept.
        texts: How many columns, the first ones, hold text; all others hold numbers, which are never folded.
        title: What stands above the table.
    """
    from rich.text import Text

    width = console.width if console.is_terminal else WHOLE
    if title:
        console.print(Text(folded(title, width), "italic"), soft_wrap=True)
    for line in table_lines(heads, rows, texts, width):
        console.print(Text.assemble(*line), soft_wrap=True)


def say_table(heads: Sequence[str], rows: Sequence[Row], texts: int = 1) -> None:
    """Print a table without styles, for light verbs: styles would load much of rich."""
    for line in table_lines(heads, rows, texts, terminal_width()):
        say("".join(text for text, _ in line))


def terminal_width() -> int:
    """Return how wide the terminal is; `WHOLE` where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WHOLE


def table_lines(heads: Sequence[str], rows: Sequence[Row], texts: int, width: int) -> Iterator[list[tuple[str, str]]]:
    """Yield the lines of as many tables as it takes to fit ``width``; each begins with the columns of text.

    A line is pieces of text, each with its style.
    """
    top: list[Row] = [[(head, "dim") for head in heads]] if heads else []
    parts = [[row[i] for row in rows] for i in range(len(heads or rows[0]))]
    heads = heads or [""] * len(parts)
    natural = [_widest([head, *column]) for head, column in zip(heads, parts, strict=True)]
    folds = [max(*map(cell_len, [*head.split(), ""]), _widest(c)) for head, c in zip(heads, parts, strict=True)]
    sizes = natural if _sum(natural) <= width else folds
    for some in _groups(sizes, texts, width):
        room = width - sum(_GAP + sizes[i] for i in some) - _GAP * (texts - 1)
        shown = [*zip(range(texts), _share(natural[:texts], room), strict=True), *((i, sizes[i]) for i in some)]
        for row in (*top, *rows):
            cells = [_folded(row[i], size) for i, size in shown]
            for line in zip_longest(*cells, fillvalue=("", "")):
                yield _line(line, [size for _, size in shown], texts)


def folded(text: str, width: int) -> str:
    r"""Return text in lines of at most ``width`` columns, ended after a space or a mark where there is one.

    >>> folded("mia_loss_auc of all", 10), folded("of 1,200", 6), folded("日本日本日本", 5)
    ('mia_loss_\nauc of all', 'of\n1,200', '日本\n日本\n日本')
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in _PLACES.split(paragraph):
            if line and cell_len((line + word).rstrip()) > width:
                lines.append(line.rstrip())
                line = ""
            *full, line = chop_cells(line + word, width) if cell_len((line + word).rstrip()) > width else [line + word]
            lines += full
        lines.append(line.rstrip())
    return "\n".join(lines)


def _folded(cell: TableCell, width: int) -> list[tuple[str, str]]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return [(line, style) for line in folded(text, width).split("\n")]


def _line(cells: Sequence[tuple[str, str]], sizes: Sequence[int], texts: int) -> list[tuple[str, str]]:
    """Return a line of a table: text to the left, numbers to the right, no blank at the end."""
    pieces = []
    for i, ((text, style), size) in enumerate(zip(cells, sizes, strict=True)):
        blank, gap = " " * (size - cell_len(text)), " " * _GAP if i else ""
        pieces += [(gap, ""), (text, style), (blank, "")] if i < texts else [(gap + blank, ""), (text, style)]
    while pieces and not pieces[-1][0].strip():
        pieces.pop()
    return pieces


def _widest(cells: Sequence[TableCell]) -> int:
    texts = [cell if isinstance(cell, str) else cell[0] for cell in cells]
    return max((cell_len(line) for text in texts for line in text.split("\n")), default=0)


def _sum(sizes: Sequence[int]) -> int:
    return sum(sizes) + _GAP * (len(sizes) - 1)


def _groups(sizes: Sequence[int], texts: int, width: int) -> Iterator[list[int]]:
    """Yield the columns of numbers that stand side by side."""
    kept = _sum([min(size, LEAST) for size in sizes[:texts]])
    some: list[int] = []
    for i in range(texts, len(sizes)):
        if some and kept + sum(_GAP + sizes[j] for j in [*some, i]) > width:
            yield some
            some = []
        some.append(i)
    yield some


def _share(wanted: Sequence[int], room: int) -> list[int]:
    """Return how wide columns are that share ``room``: what they need, or the same for all that need more.

    >>> _share([4, 40, 30], 44), _share([4, 40], 60)
    ([4, 20, 20], [4, 40])
    """
    given = [0] * len(wanted)
    for left, i in zip(range(len(wanted), 0, -1), sorted(range(len(wanted)), key=wanted.__getitem__), strict=True):
        given[i] = max(2, min(wanted[i], room // left))  # a character may be two columns wide
        room -= given[i]
    return given

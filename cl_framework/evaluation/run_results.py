"""Results in Python: a value with attributes, shown as a table on a terminal and in a notebook."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, final

from rich.table import Table
from rich.text import Text

from cl_framework.evaluation import tables
from cl_framework.terminal.console import make_console

WIDTH = 100
"""Columns of the plain text."""


@final
@dataclass(frozen=True, slots=True)
class RequestResult:
    """What was measured after one request.

    Attributes:
        name: Of the request.
        kind: ``learn`` or ``forget``.
        classes: Ids of the classes that it brought or took.
        accuracy: On the test samples of all live classes; None where no class is alive.
        exams: Accuracy on each experience learned so far, by its name; None where none of its classes is alive.
        forget: What docs/results.md lists of a forget request, such as ``accuracy_forget``; None for others.
        seconds: Wall time of carrying it out and measuring.
    """

    name: str
    kind: str
    classes: tuple[int, ...]
    accuracy: float | None
    exams: Mapping[str, float | None]
    forget: Mapping[str, Any] | None
    seconds: float


@final
@dataclass(frozen=True, slots=True, repr=False)
class Results:
    """The results of a run. Accuracies are fractions; None stands for what there was nothing to measure of.

    Attributes:
        report: Everything that ``results.json`` holds, as docs/results.md lists it.
        strategy: Name of the method.
        final_accuracy: On the test samples of all live classes, after the last request.
        average_incremental_accuracy: Mean of the same after every request.
        mean_class_accuracy: Mean over classes.
        forgetting_max_past: Mean drop of each exam from its best accuracy so far.
        forgetting_max_all: The same, with the last accuracy among those that the best is taken of.
        forgetting_diag: Mean drop of each exam since it was learned.
        backward_transfer: Mean change of each exam since it was learned.
        plasticity: Mean accuracy on each exam just after it was learned.
        class_names: Class id -> name, of every class ever learned.
        per_class_accuracy: Class id -> accuracy after the last request, live classes only.
        curve: Accuracy on all live classes after each request.
        accuracy_matrix: A row for each request, a column for each exam.
        requests: One result for each request, in order.
        cost: Totals: seconds, bytes, passes.
    """

    report: Mapping[str, Any]
    strategy: str
    final_accuracy: float | None
    average_incremental_accuracy: float | None
    mean_class_accuracy: float | None
    forgetting_max_past: float | None
    forgetting_max_all: float | None
    forgetting_diag: float | None
    backward_transfer: float | None
    plasticity: float | None
    class_names: Mapping[int, str]
    per_class_accuracy: Mapping[int, float | None]
    curve: tuple[float | None, ...]
    accuracy_matrix: tuple[tuple[float | None, ...], ...]
    requests: tuple[RequestResult, ...]
    cost: Mapping[str, Any]

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Results:
        """Return the results in a report, as `results.run_report` makes it."""
        same = [name for name in cls.__dataclass_fields__ if name not in ("report", "requests")]
        taken = {name: report[name] for name in same}
        taken |= {name: {int(c): v for c, v in report[name].items()} for name in ("class_names", "per_class_accuracy")}
        taken |= {"curve": tuple(report["curve"]), "accuracy_matrix": tuple(map(tuple, report["accuracy_matrix"]))}
        return cls(report=report, requests=_requests(report), **taken)

    def __repr__(self) -> str:
        """Return the tables that `clf run` prints, as plain text."""
        out = io.StringIO()
        console = make_console(file=out, width=WIDTH, color_system=None, force_terminal=False)
        console.print(tables.table(self.report, WIDTH))
        console.print(tables.headline(self.report))
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def _repr_html_(self) -> str:
        """Return the same tables for a notebook."""
        return _html(tables.table(self.report, 10_000), heads=True) + _html(tables.headline(self.report), heads=False)


def _requests(report: Mapping[str, Any]) -> tuple[RequestResult, ...]:
    exams, learned, found = [e["name"] for e in report["exams"]], 0, []
    forgets = {f["event"]: f for f in report["forget"]}
    for event, row, overall in zip(report["events"], report["accuracy_matrix"], report["curve"], strict=True):
        learned += event["kind"] == "learn"
        so_far = dict(zip(exams[:learned], row, strict=False))
        forget, classes = forgets.get(event["name"]), tuple(event["classes"])
        found.append(RequestResult(event["name"], event["kind"], classes, overall, so_far, forget, event["seconds"]))
    return tuple(found)


def _html(table: Table, heads: bool) -> str:
    """Return a table of rich as HTML; every text is escaped."""
    columns = [[_cell(c, "td") for c in column.cells] for column in table.columns]
    head = "".join(_cell(column.header, "th") for column in table.columns) if heads else ""
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{rows}</tbody></table>"


def _cell(shown: Any, tag: str) -> str:
    text = shown.plain if isinstance(shown, Text) else str(shown)
    return f"<{tag}>{escape(text).replace(chr(10), '<br>')}</{tag}>"

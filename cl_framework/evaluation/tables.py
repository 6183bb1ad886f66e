"""Results on a terminal: a table with a row per request, and the headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.table import Table
from rich.text import Text

from cl_framework.evaluation import staying
from cl_framework.terminal.safe_text import printable

_HEAD = 8
"""Most columns of an exam's name; a longer one is folded."""
_NUMBER = 5
"""Columns of the widest accuracy, 100.0."""
NAME = 12
"""Columns for the name of a request, which is folded if it is longer and there is no more room."""
_SUMMED = ("newest", "earlier", "worst")
_GONE = {"forgotten": 11, "old": _NUMBER, "H": _NUMBER}
"""Columns about forget requests, and their widths."""

HEADLINE = ("final_accuracy", "average_incremental_accuracy", "plasticity", "forgetting_max_past", "backward_transfer")


def table(results: Mapping[str, Any], width: int = 80) -> Table:
    """Return one row per request: accuracy in percent on each exam and on all live classes, and what was forgotten.

    Where ``width`` columns cannot hold all exams, it shows the newest, the mean over all earlier ones, and the worst of
    those; results.csv holds all. Names are folded; no number is cut at 60 columns or more.
    """
    heads = [chop_cells(printable(e["name"]), _HEAD) for e in results["exams"]]
    gone = _GONE if results["forget"] else {}
    sizes = [max(_NUMBER, *map(cell_len, lines)) if lines else _NUMBER for lines in heads]
    needed = NAME + sum(size + 1 for size in (*sizes, _NUMBER, *gone.values()))
    few = needed <= width
    grid = _grid(["\n".join(lines) for lines in heads] if few else _SUMMED, gone)
    for row in _rows(results, few):
        grid.add_row(*row[: len(grid.columns)])
    if not few:
        grid.caption = f"{len(heads)} exams, summed up; results.csv has each"
        grid.caption_justify = "left"
    return grid


def newest(results: Mapping[str, Any], head: bool) -> Table:
    """Return the row of the last request alone, in columns that stay the same; for output that is not a terminal.

    Args:
        results: What `results.results` returns.
        head: Whether to begin with the names of the columns.
    """
    grid = _grid(_SUMMED, _GONE)
    grid.show_header = head
    grid.columns[0].width = 20
    grid.add_row(*_rows(results, few=False)[-1])
    return grid


def _grid(exams: Sequence[str], gone: Mapping[str, int]) -> Table:
    grid = Table(box=None, header_style="dim", padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("request", overflow="fold")
    for head in (*exams, "all"):
        grid.add_column(
            head, justify="right", no_wrap=True, min_width=max([_NUMBER, *map(cell_len, head.splitlines())])
        )
    for head, size in gone.items():
        grid.add_column(head, justify="right", no_wrap=True, min_width=size)
    return grid


def _rows(results: Mapping[str, Any], few: bool) -> list[list[Text | str]]:
    forgets = {f["event"]: f for f in results["forget"]}
    learned, rows = 0, list[list[Text | str]]()
    for event, row, overall in zip(results["events"], results["accuracy_matrix"], results["curve"], strict=True):
        learns, called = event["kind"] == "learn", printable(event["name"])
        learned += learns
        exams = _each(row, learned, learns) if few else _summed(row[:learned])
        name = Text(f"+ {called}") if learns else Text(f"- {called}", "yellow")
        rows.append([name, *exams, Text(percent(overall), "bold cyan"), *_gone(forgets.get(event["name"]))])
    return rows


def headline(results: Mapping[str, Any]) -> Table:
    """Return the headline numbers, each under the name of its formula, and the latest forget requests."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    for name in HEADLINE:
        grid.add_row(name, f"{percent(results[name])} %")
    if results["adapter_selection_accuracy"]:
        grid.add_row("adapter_selection_accuracy", f"{percent(results['adapter_selection_accuracy'][-1])} %")
    if met := results.get("overlap"):
        read, written = percent(met["mean_input"]), percent(met["mean_output"])
        grid.add_row("subspace_overlap", f"{read} % of inputs, {written} % of outputs")
    for f in results["forget"][-3:]:
        grid.add_row(printable(f["event"]), _told(f, results["class_names"]))
        changes = {name: f[name] for name in ("erosion", "spillover", "relapse") if f[name] is not None}
        lost = [f"{name} {round(100 * value, 1) + 0.0:+.1f}" for name, value in changes.items()]  # no minus before zero
        if lost:
            grid.add_row("", f"{', '.join(lost)} points")
    cost = results["cost"]
    passes = ", ".join(f"{cost[f'passes_{name}']:,} {name}" for name in ("train", "statistics", "evaluate"))
    grid.add_row("images through backbone", passes)
    if features := cost.get("features_found"):
        grid.add_row("features found", f"{features:,}, which other runs had computed")
    memory, stored = cost["peak_memory_bytes"] / 1e6, cost["stored_bytes"] / 1e6
    grid.add_row("cost", f"{cost['seconds']:.1f} s, {memory:,.0f} MB memory at the peak, {stored:,.2f} MB stored")
    return grid


def _told(forget: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Describe in a sentence the effect on the forget set; where classes stay, with the reference accuracy."""
    drop = f"{percent(forget['accuracy_forget_before'])} → {percent(forget['accuracy_forget'])} %"
    retained = f"retained {percent(forget['accuracy_retain'])} %"
    stays = {int(c): experiences for c, experiences in forget.get("stays", {}).items()}
    through = staying.staying_sentence(stays, lambda c: names.get(str(c), str(c)))
    if (count := forget["samples"]) is None:
        return f"forgotten {drop}, {retained}" + (f"; {through}" if through else "")
    unseen = percent(forget["accuracy_unseen"])
    share, stay, them = (
        ("sample", "a class that stays", "it") if count == 1 else ("samples", "classes that stay", "these")
    )
    return (
        f"{count} {share}{f'; {through}' if through else f' of {stay}'}: right {drop}, as are {unseen} % of test "
        f"samples of {them}; {retained}; `clf audit` looks for traces"
    )


def percent(value: float | None) -> str:
    """Return a fraction in percent to one decimal, or a dash for None.

    >>> percent(0.9312), percent(None)
    ('93.1', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def _each(row: Sequence[float | None], learned: int, learns: bool) -> list[Text]:
    """One cell per exam: blank before it is learned, bold right after."""
    newest = learned - 1 if learns else None
    return [Text(percent(v) if j < learned else "", "bold" if j == newest else "") for j, v in enumerate(row)]


def _summed(row: Sequence[float | None]) -> list[Text]:
    """Newest exam, and mean and worst of the earlier ones."""
    earlier = [v for v in row[:-1] if v is not None]
    mean = percent(sum(earlier) / len(earlier)) if earlier else ""
    return [Text(percent(row[-1]) if row else "", "bold"), Text(mean), Text(percent(min(earlier)) if earlier else "")]


def _gone(forget: Mapping[str, Any] | None) -> list[str]:
    if forget is None:
        return ["", "", ""]
    drop = f"{percent(forget['accuracy_forget_before'])}→{percent(forget['accuracy_forget'])}"
    return [drop, percent(forget["accuracy_old"]), percent(forget["h_mean"])]

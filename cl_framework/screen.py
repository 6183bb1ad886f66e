"""Results on a terminal: a table with a row per request, and the headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from cl_framework.printable import printable

WIDEST = 7
"""More exams than this do not fit into 80 columns and are summed up; two fewer where forgetting is shown."""

HEADLINE = ("final_accuracy", "average_incremental_accuracy", "plasticity", "forgetting_max_past", "backward_transfer")


def table(results: Mapping[str, Any]) -> Table:
    """Return one row per request: accuracy in percent on each exam and on all live classes, and what was forgotten.

    Of many exams it shows the newest, the mean over all earlier ones, and the worst of those.
    """
    forgets = {f["event"]: f for f in results["forget"]}
    few = len(results["exams"]) <= WIDEST - (2 if forgets else 0)
    grid = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    grid.add_column("request", no_wrap=True)
    heads = [printable(e["name"]) for e in results["exams"]] if few else ["newest", "earlier", "worst"]
    for head in [*heads, "all", *(["forgotten", "old", "H"] if forgets else [])]:
        grid.add_column(head, justify="right", no_wrap=True)
    learned = 0
    for event, row, overall in zip(results["events"], results["accuracy_matrix"], results["curve"], strict=True):
        learns, called = event["kind"] == "learn", printable(event["name"])
        learned += learns
        exams = _each(row, learned, learns) if few else _summed(row[:learned])
        gone = _gone(forgets.get(event["name"])) if forgets else []
        name = Text(f"+ {called}") if learns else Text(f"- {called}", "yellow")
        grid.add_row(name, *exams, Text(percent(overall), "bold cyan"), *gone)
    return grid


def headline(results: Mapping[str, Any]) -> Table:
    """Return the numbers to look at first, each under the name of its formula, and the latest forget requests."""
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
        drop = f"{percent(f['accuracy_forget_before'])} → {percent(f['accuracy_forget'])} %"
        grid.add_row(printable(f["event"]), f"forgotten {drop}, retained {percent(f['accuracy_retain'])} %")
        lost = [f"{what} {100 * f[what]:+.1f}" for what in ("erosion", "spillover", "relapse") if f[what] is not None]
        if lost:
            grid.add_row("", f"{', '.join(lost)} points")
    cost = results["cost"]
    passes = ", ".join(f"{cost[f'passes_{what}']:,} {what}" for what in ("train", "statistics", "evaluate"))
    grid.add_row("images through backbone", passes)
    if found := cost.get("features_found"):
        grid.add_row("features found", f"{found:,}, which other runs had computed")
    memory, stored = cost["peak_memory_bytes"] / 1e6, cost["stored_bytes"] / 1e6
    grid.add_row("cost", f"{cost['seconds']:.1f} s, {memory:,.0f} MB memory at the peak, {stored:,.2f} MB stored")
    return grid


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

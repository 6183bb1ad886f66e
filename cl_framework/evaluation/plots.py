"""One figure of a run: one column per request; above, accuracy over live classes; below, of each exam."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cl_framework.evaluation.tables import percent
from cl_framework.terminal.safe_text import printable

KNOWN, GONE = "#17607a", "#c8553d"
_ROW = 0.36
"""Height of a row of the matrix in inches."""
LEGIBLE = 0.4
"""Columns narrower than this many inches hold no numbers."""


def accuracy_figure(results: Mapping[str, Any]) -> bytes:
    """Return a PNG of the accuracy over all live classes after each request, and of the accuracy matrix.

    Where adapters have factors, heat maps at the bottom show how far their subspaces of inputs and outputs meet.

    A forget request is marked by a line, and by an arrow from the accuracy on the forget set before it to that after.
    """
    names = [printable(e["name"]) for e in results["events"]]
    wide, high = max(len(names), 1), max(len(results["exams"]), 1)
    column = min(0.75, max(11 / wide, 0.45)) if wide <= 30 else 13 / wide
    heights, met = (2.2, _ROW * high), results.get("overlap")
    more = 1.6 + _ROW * len(met["adapters"]) if met else 0
    figure = Figure((max(6.5, column * wide + 2), sum(heights) + 1.6 + more), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=(sum(heights) + 1.6, more)) if met else None
    upper = figure if halves is None else figure.add_subfigure(halves[0])
    above, below = upper.subplots(2, 1, sharex=True, height_ratios=heights)
    figure.suptitle(_title(results), x=0.01, ha="left", fontsize=11, parse_math=False)
    _curve(above, results)
    _matrix(below, results, numbers=column >= LEGIBLE)
    crowded = max(map(len, names), default=0) * 0.085 > column
    below.set_xticks(range(len(names)), names, rotation=90 if crowded else 0, fontsize=8, parse_math=False)
    for label, event in zip(below.get_xticklabels(), results["events"], strict=True):
        if event["kind"] == "forget":
            label.set(color=GONE, fontweight="bold")
    if met and halves is not None:
        for side, axes in zip(("input", "output"), figure.add_subfigure(halves[1]).subplots(1, 2), strict=True):
            _overlap(axes, met, side)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def _title(results: Mapping[str, Any]) -> str:
    names = {"final accuracy": "final_accuracy", "average incremental accuracy": "average_incremental_accuracy"}
    return f"{results['strategy']}: " + ", ".join(
        f"{label} {percent(results[name])} %" for label, name in names.items()
    )


def _curve(axes: Axes, results: Mapping[str, Any]) -> None:
    """Accuracy over all live classes, and on forget sets."""
    curve = [math.nan if v is None else v for v in results["curve"]]
    places = {e["name"]: i for i, e in enumerate(results["events"])}
    axes.plot(range(len(curve)), curve, "o-", color=KNOWN, label="all live classes", clip_on=False, zorder=3)
    for f in results["forget"]:
        at, before, after = places[f["event"]], f["accuracy_forget_before"], f["accuracy_forget"]
        axes.axvline(at, color=GONE, linestyle=":", linewidth=1, alpha=0.6)
        if before is not None and after is not None and f["samples"] is None:
            axes.plot([at], [before], "o", color=GONE, fillstyle="none", clip_on=False)
            axes.annotate("", (at, after), (at, before), arrowprops={"arrowstyle": "->", "color": GONE, "shrinkB": 5})
            axes.plot([at], [after], "x", color=GONE, clip_on=False, label="forgotten, before and after")
    axes.set(ylim=(0, 1), ylabel="accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color="#e6e8eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", bottom=False, labelbottom=False, labelsize=8)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once, frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _matrix(axes: Axes, results: Mapping[str, Any], numbers: bool) -> None:
    """Exams as rows from the top, requests as columns; bold right after learning."""
    values = [[math.nan if v is None else v for v in row] for row in results["accuracy_matrix"]]
    exams = [list(column) for column in zip(*values, strict=True)] or [[math.nan]]
    seen = [v for row in exams for v in row if not math.isnan(v)]
    floor = min(0.8, math.floor(10 * min(seen, default=0.0)) / 10)  # a scale from 0 would hide what differs
    image = axes.imshow(exams, aspect="auto", cmap="YlGnBu", vmin=floor, vmax=1)
    for j, row in enumerate(exams if numbers else []):
        known = [i for i, v in enumerate(row) if not math.isnan(v)]
        for i in known:
            red, green, blue, _ = image.cmap(image.norm(row[i]))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.47 else "black"
            weight = "bold" if i == known[0] else "normal"
            axes.text(i, j, f"{100 * row[i]:.0f}", ha="center", va="center", fontsize=8, weight=weight, color=ink)
    axes.set_yticks(
        range(len(results["exams"])), [printable(e["name"]) for e in results["exams"]], fontsize=8, parse_math=False
    )
    axes.set(ylabel="exam", xlabel="after request")
    axes.set_xticks([i + 0.5 for i in range(len(values) - 1)], minor=True)
    axes.set_yticks([j + 0.5 for j in range(len(exams) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), pad=0.01, aspect=3 * len(exams))
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _overlap(axes: Axes, met: Mapping[str, Any], side: str) -> None:
    """Adapters against adapters, from 0 for orthogonal subspaces to 1 where one contains the other."""
    names, values = (
        [printable(n) for n in met["adapters"]],
        [[math.nan if v is None else v for v in row] for row in met[side]],
    )
    image = axes.imshow(values, cmap="YlOrBr", vmin=0, vmax=1)
    axes.set_title(f"overlap of {side} subspaces, mean {percent(met[f'mean_{side}'])} %", fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), pad=0.02, shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)

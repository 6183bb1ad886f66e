"""Draw the accuracy on each experience over the stream, one panel per run, as docs/stream.svg shows it.

    clf run quickstart --run_dir runs/ease
    clf run quickstart --run_dir runs/finetune --model.strategy Finetune --model.unlearner Retrain
    python scripts/stream_figure.py runs/finetune runs/ease      # writes docs/stream.svg

All numbers come from results.json. An experience whose classes are all forgotten ends, after its request, at the
accuracy that is left on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cl_framework.errors import UserError
from scripts.cells import ROOT, guarded

FORGET = "#c8553d"
COLOURS = ("#17607a", "#3a9188", "#7f6db0", "#b8862b", "#5b6770")


def curves(results: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return (request, accuracy) points of each experience, while it has classes that are alive, and once after.

    >>> stream = [{"name": "a", "kind": "learn"}, {"name": "f", "kind": "forget"}, {"name": "b", "kind": "learn"}]
    >>> curves({"events": stream, "exams": [{"name": "a"}], "accuracy_matrix": [[0.9], [None], [None]],
    ...         "forget": [{"event": "f", "accuracy_forget": 0.0}]})
    {'a': [(0, 0.9), (1, 0.0)]}
    """
    left = {f["event"]: f["accuracy_forget"] for f in results["forget"]}
    points: dict[str, list[tuple[int, float]]] = {}
    for j, exam in enumerate(results["exams"]):
        column = [row[j] for row in results["accuracy_matrix"]]
        line = [(i, accuracy) for i, accuracy in enumerate(column) if accuracy is not None]
        if not line:  # no test samples
            continue
        end = line[-1][0] + 1
        if end < len(column):
            line.append((end, left[results["events"][end]["name"]]))
        points[exam["name"]] = line
    return points


def panel(axes: Axes, results: Mapping[str, Any]) -> None:
    """Draw one run: a line per experience, and each forget request as a band."""
    for i, event in enumerate(results["events"]):
        if event["kind"] == "forget":
            axes.axvspan(i - 0.5, i + 0.5, color=FORGET, alpha=0.15, lw=0)
    for (name, line), colour in zip(curves(results).items(), COLOURS * len(results["exams"]), strict=False):
        axes.plot(*zip(*line, strict=True), color=colour, marker="o", ms=4, lw=1.8, label=name)
        last, accuracy = line[-1]
        if last < len(results["events"]) - 1:
            axes.plot(last, accuracy, color=FORGET, marker="X", ms=9, lw=0, zorder=3)
    axes.set_title(f"{results['strategy']}: final accuracy {results['final_accuracy']:.1%}", loc="left", fontsize=10)
    names = [event["name"] for event in results["events"]]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a figure with one panel per run, the same bytes for the same results."""
    figure = Figure((4.2 * len(runs), 2.9), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, results in zip(panels, runs, strict=True):
        panel(axes, results)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set_ylabel("accuracy on its test set", fontsize=9)
    panels[0].legend(fontsize=7, frameon=False, loc="lower left", title="experience", title_fontsize=7)
    with matplotlib.rc_context({"svg.hashsalt": "stream"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and draw."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", type=Path, nargs="+", help="directories of finished runs, one panel each")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "stream.svg", help="figure to write: .svg or .png")
    args = p.parse_args(argv)
    return guarded("stream_figure", lambda: draw([_results(run) for run in args.runs], args.out))


def _results(run: Path) -> Mapping[str, Any]:
    path = run / "results.json"
    if not path.exists():
        raise UserError(f"{run} has no results.json; finish the run first: clf resume {run}.")
    results: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


if __name__ == "__main__":
    sys.exit(main())

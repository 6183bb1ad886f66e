"""How time and memory grow with a stream: seconds per task up to 200 tasks, bytes up to 10,000 classes, as a figure.

    python scripts/scaling.py            # writes docs/tables/scaling.md and .json, and docs/scaling.png

Seconds are the processor's, of learning a task and of the exam on all tasks so far, with a very small ViT (timm's
test_vit, random weights, 32 x 32 pictures, two classes a task): passes are cheap, so that whatever else grows shows.
The plain loop and EASE without its feature store grow with the square of the tasks and stop early. Memory is measured
on vectors of width 768 drawn at random in place of features, one training and one test sample of each class, in ten
tasks, or in tasks of two classes up to half as many: what is stored is what a ViT-B would store, adapters apart.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import cl_framework.threads  # noqa: F401  # before torch

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from rich.console import Console
from torch import Tensor, nn

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones.base import Backbone, Site
from cl_framework.configuration.experiment import build
from cl_framework.configuration.parser import TRAINER_DEFAULTS
from cl_framework.engine import loop as engine_loop
from cl_framework.engine.journal import Cost
from cl_framework.engine.learner import Learner
from cl_framework.engine.trainers import fresh_trainers
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.measurements import Measurements
from cl_framework.methods.base import Strategy
from cl_framework.streams.events import Experience, Step
from cl_framework.streams.samples import Rows
from cl_framework.streams.scenario import Scenario
from scripts.cells import ROOT, device, guarded
from scripts.phases import Stopwatch, forget_peak, peak_since
from scripts.plain_loop import PlainEase
from scripts.tables import write
from scripts.variants import VARIANTS
from strategies.learning.ease import EASE
from strategies.learning.simplecil import SimpleCIL

CONSOLE = Console(stderr=True, quiet=True)
Sizes: TypeAlias = Mapping[str, Sequence[Mapping[str, float]]]
"""By strategy, what is held after each task."""
SMALL = """
model:
  backbone: {class_path: Timm, init_args: {name: test_vit, pretrained: false, image_size: 32}}
  adapter: {class_path: Bottleneck, init_args: {width: 4}}
data: {scenario: {class_path: ClassIncremental, init_args: {increment: 2}}}
trainer: {max_epochs: 1, accelerator: cpu}
"""
WIDTH = 768


@final
class Costs:
    """A journal that keeps what every task took, and the peak of memory since the last one."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[dict[str, float]] = []
        self._began = 0.0

    def starts(self, step: Step) -> None:
        """Let the peak begin anew."""
        forget_peak()
        self._began = time.process_time()

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        """Add a row."""
        peak = {"peak_memory_bytes": peak_since(), "stored_bytes": cost.stored_bytes}
        self.rows.append({"classes": len(measurements.hits), "seconds": time.process_time() - self._began, **peak})


@final
class Vectors(Backbone):
    """In place of a backbone: features are the inputs; an adapter may sit where a block's MLP would be."""

    def __init__(self) -> None:
        """Hold the one place."""
        super().__init__()
        self.name, self.width = "vectors", WIDTH
        self.norm, self.mlp = nn.Identity(), nn.Identity()
        self.register_parameter("nothing", nn.Parameter(torch.zeros(()), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(n, 768)``, changed by adapters only."""
        found: Tensor = self.mlp(self.norm(x))
        return found

    def sites(self) -> Mapping[str, Site]:
        """Return the one place."""
        return {"block_mlp": Site("block_mlp", self.mlp, WIDTH, WIDTH, reads=self.norm)}


@final
class Drawn(Scenario):
    """Classes that are random vectors, with one training and one test sample each."""

    def __init__(self, classes: int, tasks: int) -> None:
        """Deal ``classes`` into ``tasks``."""
        self.class_names, self.tasks = [f"class {c}" for c in range(classes)], tasks

    def steps(self) -> Iterator[Step]:
        """Yield a task after another."""
        for t, classes in enumerate(torch.arange(len(self.class_names)).chunk(self.tasks)):
            x = torch.randn(len(classes), WIDTH, generator=torch.Generator().manual_seed(t))
            data, reference, exam = (Rows(x, classes, classes, key) for key in (None, "vectors/train", "vectors/test"))
            yield Step(Experience(f"task-{t}", tuple(classes.tolist()), data, reference), exam)


def seconds(strategy: str, tasks: int, change: str | None = None) -> list[float]:
    """Learn a stream of ``tasks`` and return the seconds that each took, its exam included."""
    experiment = _small(tasks, "--model.strategy", strategy)
    journal = Costs()
    if change is not None:
        VARIANTS[change].change(experiment).__enter__()
    engine_loop.run_stream(experiment.learner, experiment.scenario, experiment.make_trainer, Evaluator(False), journal)
    return [row["seconds"] for row in journal.rows]


def plain_seconds(tasks: int) -> list[float]:
    """Do the same in the plain loop."""
    loop, found = PlainEase(_small(tasks), watch=Stopwatch(time.process_time)), list[float]()
    for task, classes in enumerate(loop.stream.groups()):
        loop.watch.seconds.clear()
        loop.task(task, classes)
        found.append(sum(map(float, loop.watch.seconds.values())))
    return found


def _small(tasks: int, *more: str) -> Any:
    data = ("--data.scenario.init_args.dataset", f"glyphs:classes={2 * tasks},train=8,test=4")
    return build(["--config", SMALL, *data, *more], CONSOLE)


def memory(strategy: Strategy, classes: int, tasks: int) -> list[dict[str, float]]:
    """Learn ``classes`` in ``tasks`` and return, for each number of classes, bytes stored and at the peak."""
    learner, journal = Learner(Vectors(), Bottleneck(4), strategy), Costs()
    options: dict[str, Any] = {k: v for k, v in TRAINER_DEFAULTS.items() if v is False}
    make = fresh_trainers(functools.partial(Trainer, max_epochs=1, accelerator="cpu", **options), None)
    engine_loop.run_stream(learner, Drawn(classes, tasks), make, Evaluator(False), journal, 256)
    return journal.rows


def draw(times: Mapping[str, Sequence[float]], by_classes: Sizes, by_tasks: Sizes, path: Path) -> None:
    """Draw seconds against tasks, bytes against tasks, and bytes against classes, and save them."""
    figure = Figure((12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, values in times.items():
        left.plot(range(1, len(values) + 1), values, label=name)
    left.set(xlabel="tasks so far", ylabel="processor seconds for one more task", yscale="log")
    for axes, sizes, classes in ((middle, by_tasks, 2), (right, by_classes, 1)):
        for name, rows in sizes.items():
            so_far = [row["classes"] / classes for row in rows]
            (line,) = axes.plot(so_far, [r["stored_bytes"] / 1e6 for r in rows], label=f"{name}, stored")
            peaks = [r["peak_memory_bytes"] / 1e6 for r in rows]
            axes.plot(so_far, peaks, ":", color=line.get_color(), label=f"{name}, process at its peak")
    middle.set(xlabel="tasks so far, of two classes", ylabel="MB", yscale="log")
    right.set(xlabel="classes so far, in ten tasks", ylabel="MB", yscale="log")
    for axes in (left, middle, right):
        _plain(axes)
    figure.savefig(path, dpi=110)


def _plain(axes: Axes) -> None:
    axes.grid(color="#e6e8eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def markdown(times: Mapping[str, Sequence[float]], at: Sequence[int], note: str) -> str:
    """Return a table of the seconds that one more task takes, each the mean of the last ten tasks up to there."""
    lines = ["| processor seconds for one more task | " + " | ".join(f"at {n} tasks" for n in at) + " |"]
    lines += ["|---|" + "---:|" * len(at)]
    for name, values in times.items():
        cells = [f"{sum(values[n - 10 : n]) / 10:.2f}" if n <= len(values) else "-" for n in at]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", note, ""])


def scale(args: argparse.Namespace) -> None:
    """Measure, draw, write."""
    few = min(args.tasks, args.plain_tasks)
    times = {
        "plain loop, EASE": plain_seconds(few),
        "EASE, no feature store": seconds("EASE", few, "no feature store"),
        "EASE": seconds("EASE", args.tasks),
        "SimpleCIL": seconds("SimpleCIL", args.tasks),
    }
    by_classes = {s.__name__: memory(s(), args.classes, 10) for s in (SimpleCIL, EASE)}
    by_tasks = {s.__name__: memory(s(), args.tasks, args.tasks // 2) for s in (SimpleCIL, EASE)}
    args.out.mkdir(parents=True, exist_ok=True)
    draw(times, by_classes, by_tasks, args.out / "scaling.png")
    at = [n for n in (10, 20, 50, 100, 200) if n <= args.tasks]
    line = f"python scripts/scaling.py --tasks {args.tasks} --plain_tasks {args.plain_tasks} --classes {args.classes}"
    note = f"A very small ViT on {device()}. Made by `{line}`."
    table = markdown(times, at, note)
    print(table)
    write(args.out / "tables", "scaling", table, {"seconds": times, "memory": by_classes, "memory_by_tasks": by_tasks})


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and measure."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tasks", type=int, default=200, help="of the longest stream")
    p.add_argument("--plain_tasks", type=int, default=50, help="of those that grow with its square")
    p.add_argument("--classes", type=int, default=10_000, help="of the largest")
    p.add_argument("--out", type=Path, default=ROOT / "docs", help="where figure and tables go")
    args = p.parse_args(argv)
    return guarded("scaling", lambda: scale(args), resumes=False)


if __name__ == "__main__":
    sys.exit(main())

"""What routing costs and saves: EASE asked in all its subspaces, and only in those of the nearest experiences.

    python scripts/routing.py --tasks 10 50 100 --out docs/tables/routing.md

For each number of tasks the same glyphs are dealt out into that many experiences and learned once, without exams on
the way. Then the same learner answers all test pictures without a route and with ``nearest:k`` for several ``k``, with
the published settings and with those chosen for glyphs. Passes and time per picture are those of pictures that nothing
is stored of. Prints a table; ``--out`` writes it, with a JSON file beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cl_framework.threads  # noqa: F401  # before torch

import torch

from cl_framework.configuration.experiment import build
from cl_framework.engine import loop
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.streams.samples import Joined, Samples
from scripts.cells import CONSOLE, device, guarded
from scripts.tables import write
from strategies.learning.ease import EASE

SETTINGS: dict[str, dict[str, Any]] = {
    "published": {"alpha": 0.1, "use_init_ptm": False, "complement": "all_later_as_released"},
    "tuned": {"alpha": 0.5, "use_init_ptm": True, "beta": 2.0, "complement": "all_later_as_released"},
}
"""The paper's, and those of configs/compare/glyphs.yaml."""


def learned(tasks: int, args: argparse.Namespace) -> tuple[Learner, Samples]:
    """Learn a stream of so many experiences; return the learner and all test pictures.

    Raises:
        UserError: If the classes cannot be dealt out evenly, two at least to each experience.
    """
    if args.classes % tasks or args.classes // tasks < 2:
        raise UserError(f"{args.classes} classes make no {tasks} experiences of two or more each; choose others.")
    experiment = build(
        [
            *("--model.backbone", "GlyphViT", "--model.adapter", "Bottleneck", "--model.adapter.width", "16"),
            *("--model.strategy", "EASE", "--model.strategy.route", "nearest:1"),
            *("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "5e-3"),
            *("--model.optimizer.weight_decay", "0.01", "--data.batch_size", "8"),
            *("--data.scenario", "ClassIncremental", "--data.scenario.increment", str(args.classes // tasks)),
            *("--data.scenario.dataset", f"glyphs:classes={args.classes},train={args.train},test={args.test}"),
            *("--trainer.max_epochs", str(args.epochs)),
        ],
        CONSOLE,
    )
    learner = experiment.learner
    learner.to(experiment.make_trainer(None).strategy.root_device)
    exams = []
    for step in experiment.scenario.steps():
        loop.carry_out(learner, step.event, experiment.make_trainer, experiment.batch_size)
        exams.append(step.exam)
    return learner, Joined(exams)


def measured(
    learner: Learner, exam: Samples, tasks: int, routes: Sequence[int], timed: int
) -> Iterator[dict[str, Any]]:
    """Answer by each setting and route; the first of a setting goes to all subspaces."""
    ease, model = learner.strategy, learner.model
    assert isinstance(ease, EASE)
    rows = torch.arange(0, len(exam), max(1, len(exam) // timed))[:timed]
    x = exam[rows.tolist()].x.to(model.device)
    for name, setting in SETTINGS.items():
        for key, value in setting.items():
            setattr(ease, key, value)
        whole: dict[str, Any] = {}
        for visits in (None, *routes):
            ease.visits = visits
            accuracy = float((learner.answer(exam).cpu() == exam.labels).float().mean())
            model.passes.clear()
            began = time.perf_counter()
            with torch.no_grad():
                ease.predict(model, Inputs(lambda: x, exam.ids[rows]))
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
            took = (time.perf_counter() - began) / len(x)
            found = {"accuracy": accuracy, "passes": model.passes.total() / len(x), "seconds": took}
            whole = whole or found
            yield {
                "tasks": tasks, "settings": name, "route": "all" if visits is None else f"nearest:{visits}", **found,
                "lost": whole["accuracy"] - accuracy, "faster": whole["seconds"] / took,
            }  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]], note: str) -> str:
    """Return a table of what each route costs and saves."""
    heads = ("settings", "route", "accuracy", "points lost", "passes per picture", "ms per picture", "times faster")
    lines = ["| tasks | " + " | ".join(heads) + " |", "|---:|---|---|" + "---:|" * (len(heads) - 2)]
    lines += [
        f"| {r['tasks']} | {r['settings']} | {r['route']} | {100 * r['accuracy']:.1f} | {100 * r['lost']:.1f} | "
        f"{r['passes']:.0f} | {1e3 * r['seconds']:.1f} | {r['faster']:.1f} |"
        for r in rows
    ]
    return "\n".join([*lines, "", note, ""])


def bench(args: argparse.Namespace) -> None:
    """Learn each stream, measure, print, and write if asked to."""
    rows: list[dict[str, Any]] = []
    for tasks in args.tasks:
        began = time.perf_counter()
        learner, exam = learned(tasks, args)
        print(f"{tasks} tasks: learned in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        rows += measured(learner, exam, tasks, args.nearest, args.timed)
    note = (
        f"EASE on glyph_vit, {args.classes} characters, {args.train} training and {args.test} test pictures of each, "
        f"{args.epochs} epochs, one seed, on {device()}. Lost points count from the row above that asks all. Made by "
        f"`python scripts/routing.py --tasks {' '.join(map(str, args.tasks))}`."
    )
    table = markdown(rows, note)
    print(table)
    if args.out:
        write(args.out.parent, args.out.stem, table, {"rows": rows, "note": note})


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments, measure, print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tasks", type=int, nargs="+", default=[10, 50, 100], help="experiences of each stream")
    p.add_argument("--classes", type=int, default=200, help="characters in all")
    p.add_argument("--train", type=int, default=12, help="training pictures of each")
    p.add_argument("--test", type=int, default=6, help="test pictures of each")
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--nearest", type=int, nargs="+", default=[1, 2, 5], metavar="K", help="routes to try")
    p.add_argument("--timed", type=int, default=64, help="pictures to time and count passes on")
    p.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there, and FILE.json")
    args = p.parse_args(argv)
    return guarded("routing", lambda: bench(args), resumes=False)


if __name__ == "__main__":
    sys.exit(main())

"""Print what an experiment costs, as JSON: seconds per phase, images per second, peak memory.

    scripts/bench configs/quickstart.yaml
    scripts/bench configs/quickstart.yaml --model.strategy SimpleCIL --trainer.max_epochs 2

Everything runs in this process and nothing is written; progress goes to stderr. The phases are ``train`` (inside
Lightning's fit), ``prototypes`` (the rest of carrying out a request: prototypes and other statistics), ``evaluation``
(answering exams) and ``other`` (loading data, making trainers). Images are those that passed through the backbone:
what the feature store remembers is not passed again. ``forget`` lists the forget requests, whose time and images are
in the phases too: what a request costs against one that learns everything again is a ratio within one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, final
from unittest.mock import patch

import torch
from pytorch_lightning import Trainer
from rich.console import Console

from cl_framework import engine
from cl_framework.engine import Cost
from cl_framework.errors import UserError
from cl_framework.evaluator import Evaluator
from cl_framework.experiment import Experiment, build
from cl_framework.marks import Marks
from cl_framework.stream import Step
from cl_framework.training import RequestBar, peak_memory

P = ParamSpec("P")
R = TypeVar("R")
PASSES = {"train": "train", "prototypes": "statistics", "evaluation": "evaluate"}
"""What the model calls the passes of each phase."""


@final
class Stopwatch:
    """Seconds by phase. A phase inside another stops the outer one's clock, so that phases add up."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds: Counter[str] = Counter()

    def __call__(self, phase: str, call: Callable[P, R]) -> Callable[P, R]:
        """Return ``call`` with its time added to ``phase``."""

        @wraps(call)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            began, before = _now(), sum(self.seconds.values())
            try:
                return call(*args, **kwargs)
            finally:
                inside = sum(self.seconds.values()) - before
                self.seconds[phase] += _now() - began - inside  # type: ignore[assignment]  # a Counter of floats

        return timed


@final
class _Label:
    """A journal that keeps what forget requests cost, and says on the progress bar what is being done."""

    def __init__(self, bar: RequestBar) -> None:
        self.bar = bar
        self.forgets: list[dict[str, Any]] = []

    def starts(self, step: Step) -> None:
        self.bar.label = step.event.name

    def ends(self, step: Step, marks: Marks, cost: Cost) -> None:
        if marks.kind == "forget":
            self.forgets.append({"request": marks.event, "seconds": cost.seconds, "images": sum(cost.passes.values())})


def bench(experiment: Experiment) -> dict[str, Any]:
    """Carry out ``experiment`` and return what each phase took."""
    watch, learner = Stopwatch(), experiment.learner

    def make_trainer(epochs: int | None) -> Trainer:
        trainer = watch("other", experiment.make_trainer)(epochs)
        setattr(trainer, "fit", watch("train", trainer.fit))  # noqa: B010  # a plain assignment is no method to mypy
        return trainer

    device = str(experiment.make_trainer(None).strategy.root_device)
    evaluator, journal = Evaluator(learner.strategy.isolates == "experience"), _Label(experiment.bar)
    with (
        patch.object(engine, "carry_out", watch("prototypes", engine.carry_out)),
        patch.object(learner, "answer", watch("evaluation", learner.answer)),
    ):
        everything = watch("other", engine.run)
        everything(learner, experiment.scenario, make_trainer, evaluator, journal, experiment.batch_size)
    return {
        "strategy": type(learner.strategy).__name__,
        "device": device,
        "threads": torch.get_num_threads(),
        "phases": {
            **{p: _phase(watch.seconds[p], learner.model.passes[passes]) for p, passes in PASSES.items()},
            "other": {"seconds": watch.seconds["other"]},
        },
        "forget": journal.forgets,
        "total_seconds": sum(watch.seconds.values()),
        "peak_memory_bytes": peak_memory(),
    }


def _phase(seconds: float, images: int) -> dict[str, float | None]:
    return {"seconds": seconds, "images": images, "images_per_second": images / seconds if seconds and images else None}


def _now() -> float:
    """Read the clock once the GPU, if there is one at work, has caught up."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments, measure, print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="a config such as configs/quickstart.yaml; overrides as for `clf run` may follow")
    args, overrides = p.parse_known_args(argv)
    try:
        costs = bench(build(["--config", args.config, *overrides], Console(stderr=True)))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"experiment": args.config, "overrides": overrides, **costs}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

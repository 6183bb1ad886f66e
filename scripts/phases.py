"""Where the time and memory of a stream go: an experiment carried out under a stopwatch, phase by phase."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, final
from unittest.mock import patch

import torch
from pytorch_lightning import Trainer

from cl_framework.configuration.experiment import Experiment
from cl_framework.engine import loop
from cl_framework.engine.journal import Cost
from cl_framework.engine.learner import Learner
from cl_framework.engine.trainers import MakeTrainer, RequestBar, peak_memory
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.measurements import Measurements
from cl_framework.metrics.continual import average_incremental_accuracy, final_accuracy, micro_accuracy
from cl_framework.streams.events import Event, ForgetRequest, Step
from scenarios.data.source import View

P = ParamSpec("P")
R = TypeVar("R")
PASSES = {"train": "train", "prototypes": "statistics", "evaluation": "evaluate"}
"""What the model calls the passes of each phase."""
DATA = "data"


@final
class Stopwatch:
    """Seconds and peak memory by phase. A phase inside another stops the outer one's clock, so that phases add up.

    Args:
        clock: Tells the seconds: `time.perf_counter`, or `time.process_time` for those of the processor alone, where
            other work on the machine would disturb.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start at zero."""
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self._running: list[str] = []
        self._closed = False
        self._since = 0.0

    def __call__(self, phase: str, call: Callable[P, R], whole: bool = False) -> Callable[P, R]:
        """Return ``call`` with its time added to ``phase``; if ``whole``, so is that of phases inside it."""

        @wraps(call)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._closed:
                return call(*args, **kwargs)
            self._turn(phase)
            self._running.append(phase)
            self._closed = whole
            try:
                return call(*args, **kwargs)
            finally:
                self._turn(phase)
                self._running.pop()
                self._closed = False

        return timed

    def _turn(self, to: str) -> None:
        """Account for what ran until now. Reading data waits for no GPU: that would undo what overlaps."""
        if to != DATA and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = self.clock()
        if self._running:
            last = self._running[-1]
            self.seconds[last] += now - self._since  # type: ignore[assignment]  # a Counter of floats
            self.peaks[last] = max(self.peaks[last], peak_since())
        forget_peak()
        self._since = now


@final
class _Notes:
    """Journal of accuracies and of the cost of forget requests; names the current event on the progress bar."""

    def __init__(self, bar: RequestBar) -> None:
        self.bar, self.curve = bar, list[float | None]()
        self.forgets: list[dict[str, Any]] = []

    def starts(self, step: Step) -> None:
        self.bar.label = step.event.name

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        self.curve.append(micro_accuracy(measurements.hits.values()))
        if measurements.kind == "forget":
            self.forgets.append(
                {"request": measurements.event, "seconds": cost.seconds, "images": sum(cost.passes.values())}
            )


def measured(experiment: Experiment, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Carry out ``experiment`` and return what each phase took, and what was learned."""
    watch, learner, read, forgot = Stopwatch(clock), experiment.learner, Counter[str](), Counter[str]()
    carry_out, reading, passes = loop.carry_out, View.__getitem__, learner.model.passes

    def make_trainer(epochs: int | None) -> Trainer:
        trainer = watch("other", experiment.make_trainer)(epochs)
        setattr(trainer, "fit", watch("train", trainer.fit))  # noqa: B010  # a plain assignment is no method to mypy
        return trainer

    def carried_out(learner: Learner, event: Event, make: MakeTrainer, batch_size: int, share: float = 0.0) -> Cost:
        before = passes.copy()
        forgets = isinstance(event, ForgetRequest)
        cost = watch("forget" if forgets else "prototypes", carry_out, forgets)(learner, event, make, batch_size, share)
        forgot.update(passes - before if forgets else {})
        return cost

    def counted(view: View, rows: Any) -> Any:
        read[DATA] += len(rows)
        return reading(view, rows)

    device = str(experiment.make_trainer(None).strategy.root_device)
    evaluator, notes = Evaluator(learner.strategy.isolates == "experience"), _Notes(experiment.bar)
    with ExitStack() as patches:
        patches.enter_context(patch.object(loop, "carry_out", carried_out))
        patches.enter_context(patch.object(learner, "answer", watch("evaluation", learner.answer)))
        patches.enter_context(patch.object(View, "__getitem__", watch(DATA, counted)))
        everything = watch("other", loop.run_stream)
        everything(learner, experiment.scenario, make_trainer, evaluator, notes, experiment.batch_size)
    images = {p: passes[name] - forgot[name] for p, name in PASSES.items()} | {"forget": forgot.total()} | read
    return {
        "strategy": type(learner.strategy).__name__,
        "device": device,
        "threads": torch.get_num_threads(),
        **report(watch, images, notes.curve),
        "forget": notes.forgets,
    }


def report(watch: Stopwatch, images: Mapping[str, int], curve: Sequence[float | None]) -> dict[str, Any]:
    """Return seconds, images, images per second and peak memory of each phase, and accuracies.

    Images are those read, under ``data``, and elsewhere those that passed through the backbone.
    """
    phases = {
        p: {
            "seconds": (s := float(watch.seconds[p])),
            "images": images.get(p, 0),
            "images_per_second": images.get(p, 0) / s if s and images.get(p) else None,
            "peak_memory_bytes": watch.peaks[p],
        }
        for p in (DATA, *PASSES, "forget", "other")
    }
    return {
        "phases": phases,
        "total_seconds": sum(float(s) for s in watch.seconds.values()),
        "peak_memory_bytes": max(watch.peaks.values(), default=peak_memory()),
        "final_accuracy": final_accuracy(curve) if curve else None,
        "average_incremental_accuracy": average_incremental_accuracy(curve) if curve else None,
    }


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can: on a GPU, and on Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):  # where that is not allowed a peak is the highest so far
            Path("/proc/self/clear_refs").write_text("5")


def peak_since() -> int:
    """Return the most memory used since `forget_peak`, in bytes; where that cannot be told, since the start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peak_memory()

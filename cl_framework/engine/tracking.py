"""Logging on one axis over the whole stream, by names that hold nothing to forget.

A point of the axis is a training step or an event: closed-form methods advance it too. Exams are named by their place
in the stream and classes not at all, since a logger cannot be made to forget.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, final

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.engine.journal import Cost, Journal
from cl_framework.engine.learner import Learner
from cl_framework.evaluation.measurements import Measurements
from cl_framework.streams.events import Step

MEASURES = (
    "average_incremental_accuracy",
    "mean_class_accuracy",
    "forgetting_max_past",
    "forgetting_max_all",
    "forgetting_diag",
    "backward_transfer",
    "plasticity",
)
COSTS = (
    "seconds",
    "steps",
    "trainable_parameters",
    "passes_train",
    "passes_statistics",
    "passes_evaluate",
    "peak_memory_bytes",
    "stored_bytes",
)
FORGOTTEN = (
    "accuracy_forget_before", "accuracy_forget", "accuracy_unseen", "accuracy_retain", "accuracy_old", "h_mean",
    "erosion",
)  # fmt: skip


class Logger(Protocol):
    """Interface of Lightning's loggers."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers at a point of the axis."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Log the settings of the run."""

    def save(self) -> None:
        """Write what was logged."""

    def finalize(self, status: str) -> None:
        """End the run."""


class ResultsJournal(Journal, Protocol):
    """A journal with the results so far."""

    @property
    def measurements(self) -> Sequence[Measurements]:
        """Those of every event so far."""

    def results(self) -> dict[str, Any]:
        """Return what `docs/results.md` lists."""


@contextmanager
def tracked(book: ResultsJournal, learner: Learner, loggers: Sequence[Logger], config: str) -> Iterator[Journal]:
    """Log a run's settings, its events, and its end.

    Args:
        book: The journal; it hears first, and commits.
        learner: The learner, whose steps are counted.
        loggers: To tell.
        config: Settings of the run, as YAML without names of classes and samples to forget.
    """
    learner.events = len(book.measurements)
    for logger in loggers:
        logger.log_hyperparams(flat(yaml.safe_load(config)))
    status = "failed"
    try:
        yield _Tracked(book, learner, loggers)
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)


@final
class _Tracked:
    def __init__(self, book: ResultsJournal, learner: Learner, loggers: Sequence[Logger]) -> None:
        self.book, self.learner, self.loggers = book, learner, loggers

    def starts(self, step: Step) -> None:
        self.book.starts(step)

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        self.book.ends(step, measurements, cost)
        self.learner.events = len(self.book.measurements)
        metrics = numbers(self.book.results()) if self.loggers else {}
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.learner.now)
            logger.save()


def numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures after the last event, by names without classes and samples."""
    event = results["events"][-1]
    values = {"event": len(results["events"]) - 1, "accuracy/all": results["curve"][-1]}
    values |= {f"accuracy/exam-{i}": value for i, value in enumerate(results["accuracy_matrix"][-1])}
    values |= {f"stream/{name}": results[name] for name in MEASURES}
    values |= {"stream/newest_accuracy": results["newest_accuracy"][-1]}
    values |= {"stream/earlier_accuracy": results["earlier_accuracy"][-1]}
    values |= {f"cost/{name}": event[name] for name in COSTS}
    if event["kind"] == "forget" and results["forget"]:
        values |= {f"forget/{name}": results["forget"][-1][name] for name in FORGOTTEN}
    return {name: float(value) for name, value in values.items() if value is not None}


def flat(config: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return a config's settings by dotted name, as the command line spells them.

    >>> flat({"model": {"strategy": {"class_path": "EASE", "init_args": {"alpha": 0.1}}}, "threads": None})
    {'model.strategy': 'EASE', 'model.strategy.alpha': 0.1, 'threads': None}
    """
    settings: dict[str, Any] = {}
    for key, value in config.items():
        name = place if key in ("class_path", "init_args") else f"{place}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            settings |= flat(value, name)
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            settings |= flat({f"{name}[{i}]": v for i, v in enumerate(value)})
        else:
            settings[name] = json.dumps(value) if isinstance(value, list) else value
    return settings

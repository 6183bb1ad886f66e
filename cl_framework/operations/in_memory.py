"""A run without a directory: the stream is carried out, and its results are returned."""

from __future__ import annotations

from typing import Any, final

from cl_framework.configuration.experiment import Experiment
from cl_framework.engine.journal import Cost
from cl_framework.engine.learner import Learner
from cl_framework.evaluation.measurements import Measurements
from cl_framework.evaluation.results import EventResult, run_report
from cl_framework.evaluation.screen import Screen
from cl_framework.runs.open_run import carry_out_recorded
from cl_framework.streams.events import Step
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE


@final
class MemoryRecorder:
    """Keeps what was measured after each event.

    Args:
        experiment: What is carried out.
        timeline: Its requests.
    """

    def __init__(self, experiment: Experiment, timeline: Timeline) -> None:
        """Begin with no event."""
        self.learner: Learner = experiment.learner
        self.trial, self.names = experiment.trial, timeline.class_names
        self.screen = Screen(CONSOLE, self.names, len(list(timeline.steps())), experiment.bar)
        self.records: list[EventResult] = []

    @property
    def measurements(self) -> list[Measurements]:
        """Measurements of every event so far."""
        return [r.measurements for r in self.records]

    def starts(self, step: Step) -> None:
        """Name the request."""
        self.screen.starts(step, len(self.records))

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        """Keep what was measured."""
        self.records.append(cost.result(measurements))
        self.screen.ends(self.results())

    def results(self) -> dict[str, Any]:
        """Return the results so far."""
        made = run_report(type(self.learner.strategy).__name__, self.records, self.names)
        return {**made, "trial": self.trial} if self.trial else made


def carry_out_in_memory(experiment: Experiment, timeline: Timeline) -> dict[str, Any]:
    """Carry out a stream in memory, and return its results."""
    recorder = MemoryRecorder(experiment, timeline)
    carry_out_recorded(experiment, timeline, recorder, experiment.config or "{}")
    return recorder.results()

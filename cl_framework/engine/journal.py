"""The journal: what observers hear of an event, its cost and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cl_framework.evaluation.measurements import Measurements
from cl_framework.evaluation.results import EventResult
from cl_framework.streams.events import Step


@dataclass(slots=True)
class Cost:
    """Cost of an event: seconds, optimiser steps, trainable parameters, images through the backbone, bytes.

    A forget request also counts the samples it trained on, of the forget set and of the retain set.
    Features that another run had left in a shared store are ``found``: no pass was made for them.
    """

    seconds: float = 0.0
    steps: int = 0
    trainable_parameters: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    stored_bytes: int = 0
    read: dict[str, int] = field(default_factory=dict)
    found: int = 0

    def result(self, measurements: Measurements) -> EventResult:
        """Return what an event took together with what was measured after it."""
        return EventResult(
            measurements,
            self.seconds,
            self.trainable_parameters,
            self.steps,
            self.passes["train"],
            self.passes["statistics"],
            self.passes["evaluate"],
            self.peak_memory_bytes,
            self.stored_bytes,
            self.found,
        )


class Journal(Protocol):
    """Observer of a run: a run directory, a screen, a test."""

    def starts(self, step: Step) -> None:
        """Called when an event begins."""

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        """Called with its outcome."""

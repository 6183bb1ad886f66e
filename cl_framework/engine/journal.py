"""What is told of an event: when it begins, what it cost and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cl_framework.evaluation.measurements import Measurements
from cl_framework.streams.events import Step


@dataclass(slots=True)
class Cost:
    """What an event took: seconds, optimiser steps, trainable parameters, images through the backbone, bytes.

    A forget request also says how many different samples it trained on, of those that go and of those that stay.
    Features that another run had left in a shared store are ``found``: they took no pass.
    """

    seconds: float = 0.0
    steps: int = 0
    trainable_parameters: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    stored_bytes: int = 0
    read: dict[str, int] = field(default_factory=dict)
    found: int = 0


class Journal(Protocol):
    """Whoever wants to know: a run directory, a screen, a test."""

    def starts(self, step: Step) -> None:
        """Hear that an event begins."""

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        """Hear what came of it."""

"""Reference models: trained in memory, on what a run met or on the retain set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import final

from cl_framework.engine import checkpoint, loop
from cl_framework.engine.learner import Learner
from cl_framework.engine.trainers import MakeTrainer
from cl_framework.feature_cache.store import FeatureStore
from cl_framework.streams.events import Event, Experience, ForgetRequest


@final
@dataclass(frozen=True, slots=True)
class ReferenceTrainer:
    """Makes learners for an audit, separate from the run.

    Attributes:
        fresh: Builds a learner as the run's config describes it, which has learned nothing.
        make_trainer: As in `loop.run_stream`.
        batch_size: Samples per training step.
        say: Called with the progress.
        store: Features that all learners share: a feature's key says what adapters made it.
    """

    fresh: Callable[[], Learner]
    make_trainer: MakeTrainer
    batch_size: int
    say: Callable[[str], None]
    store: FeatureStore = field(default_factory=FeatureStore)

    def blank(self, seed: int | None = None) -> Learner:
        """Return a learner that has learned nothing, on the training device."""
        learner = self.fresh()
        learner.to(self.make_trainer(None).strategy.root_device)
        learner.model.store = self.store
        learner.model.seed = learner.model.seed if seed is None else seed
        learner.eval()
        return learner

    def learned(self, label: str, events: Iterable[Event], seed: int | None = None) -> Learner:
        """Return a learner that met ``events`` and nothing else."""
        learner, past = self.blank(seed), list[Experience]()
        for event in events:
            self.say(f"{label}: {event.name}")
            loop.attach_memories(learner, past)
            loop.carry_out(learner, event, self.make_trainer, self.batch_size)
            past = list(event.remaining) if isinstance(event, ForgetRequest) else [*past, event]
        return learner

    def copy(self, learner: Learner) -> Learner:
        """Return a learner in the same state that shares no weight with it."""
        twin = self.blank(learner.model.seed)
        checkpoint.restore(twin, checkpoint.tensors(learner), checkpoint.facts(learner))
        return twin

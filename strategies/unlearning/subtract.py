"""Forget exactly: subtract the forget set from the sums it was added to."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import final

from cl_framework.errors import UserError
from cl_framework.memory import Erasure, drift, erase
from cl_framework.methods import Plan, Strategy, Unlearner, lesson, remove_forgotten
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class Subtract(Unlearner):
    """Subtracts forgotten samples from sums; choose it with statistics such as means or ridge sums. Exact.

    Exact removal, to 1e-6, for strategies whose whole state is sums over samples: means, moments, ridge regression.

    Classes, experiences and single samples take one pass over them, which the feature store often saves. It reads
    the forget set only, unless ``check``, or the strategy chose something by what is left of an
    experience and has to choose again.

    Args:
        check: Sum up the retain set again and compare; the run notes the drift, and a request that would leave more
            than 1e-6 of the largest entry is refused. Reads the retain set.
    """

    exact, acts, tolerance = True, "subtract", 1e-6
    needs = frozenset({"forget"})

    def __init__(self, check: bool = False) -> None:
        """Keep the setting."""
        super().__init__()
        self.check = check
        self.drift: float | None = None

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse where state is not sums alone."""
        if not strategy.subtracts:
            return f"the state of {type(strategy).__name__} is no sum over samples, so none can be subtracted"
        if strategy.loses_first_experience(event):
            return f"the features that {type(strategy).__name__} sums up were tuned on {event.first!r}, and are no sum"
        if self.check and "retain" in event.missing:
            return "its check sums up the retain set, which cannot be had"
        if strategy.rereads(event) and "retain" in event.missing:
            return "part of an experience stays, and what was chosen on it is chosen anew from samples that are missing"
        return None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Subtract, remove classes without samples, and compute again what is no sum; no training."""
        for experience, gone in zip(event.experiences, event.reference.sources, strict=True):
            strategy.subtract(model, gone, experience)
        remove_forgotten(model, strategy, event)
        model.retain(event.remaining)
        for left in event.remaining if strategy.rereads(event) else ():
            yield from lesson(model, strategy, left)
        self.drift = drift(strategy, rebuilt(model, strategy, event)) if self.check else None
        if self.drift is not None and self.drift > self.tolerance:
            raise UserError(f"The sums have drifted by {self.drift:.1e}; forget with Retrain, which sums up anew.")

    def notes(self, model: Model, event: ForgetRequest) -> dict[str, float]:
        """Return the distance between the sums and a rebuild, where ``check`` is on."""
        return {} if self.drift is None else {"drift": self.drift}


def rebuilt(model: Model, strategy: Strategy, event: ForgetRequest) -> Strategy:
    """Return the strategy that only met the retain set."""
    fresh = copy.deepcopy(strategy)
    erase(Erasure(everything=True), fresh)
    for experience in event.remaining:
        for _ in fresh.learn(model, experience):
            raise RuntimeError(f"{type(strategy).__name__} trains, so its state is more than sums.")
    return fresh

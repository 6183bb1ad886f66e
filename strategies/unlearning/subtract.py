"""Forget exactly, by taking what must go out of the sums it was added to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from cl_framework.editing import part
from cl_framework.model import Model
from cl_framework.strategy import Plan, Strategy, Unlearner
from cl_framework.stream import ForgetRequest


@final
class Subtract(Unlearner):
    """Exact removal, to 1e-6, for strategies whose whole state is sums over samples: means, moments, ridge regression.

    Classes, experiences and single samples all go in one pass over them, which the feature store often saves. It reads
    the samples to forget and nothing else.
    """

    exact, acts, tolerance = True, "subtract", 1e-6
    needs = frozenset({"forget"})

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Object where state is more than sums."""
        if not strategy.subtracts:
            return f"the state of {type(strategy).__name__} is no sum over samples, so none can be subtracted"
        return None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Subtract, then let classes without samples go; ask for no training."""
        strategy.subtract(model, event.reference)
        part(model, strategy, event)
        return ()

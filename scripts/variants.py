"""What an experiment is compared with: the same one with an optimisation turned off, or an optional one turned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, final

from cl_framework.experiment import Experiment
from cl_framework.features import FeatureStore

Change: TypeAlias = Callable[[Experiment], AbstractContextManager[object]]


def _nothing(_: Experiment) -> AbstractContextManager[object]:
    return nullcontext()


def _forgetful(experiment: Experiment) -> AbstractContextManager[object]:
    experiment.learner.model.store = FeatureStore(budget=0)
    return nullcontext()


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """One difference to an experiment.

    Attributes:
        overrides: What is added to its arguments.
        change: What is done to it once it is built; the context it returns holds while it runs.
        gpu: Whether it is of use on a GPU only.
    """

    overrides: Sequence[str] = ()
    change: Change = _nothing
    gpu: bool = False


VARIANTS = {
    "no feature store": Variant(change=_forgetful),
    "single precision": Variant(("--trainer.precision", "32-true"), gpu=True),
}
"""By what a table calls them. A new optimisation gets a line here."""

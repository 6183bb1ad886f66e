"""What an experiment is compared with: the same one with an optimisation turned off, or an optional one turned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, final

from cl_framework.configuration.experiment import Experiment
from cl_framework.feature_cache.store import FeatureStore

Change: TypeAlias = Callable[[Experiment], AbstractContextManager[object]]


def _nothing(_: Experiment) -> AbstractContextManager[object]:
    return nullcontext()


def _forgetful(experiment: Experiment) -> AbstractContextManager[object]:
    experiment.learner.model.store = FeatureStore(budget=0)
    return nullcontext()


def _one_by_one(experiment: Experiment) -> AbstractContextManager[object]:
    experiment.learner.model.frozen.batched = False
    return nullcontext()


def _each_whole(experiment: Experiment) -> AbstractContextManager[object]:
    experiment.learner.model.backbone.divisible = False
    return nullcontext()


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """One difference to an experiment.

    Attributes:
        overrides: What is added to its arguments.
        change: What is done to it once it is built; the context it returns holds while it runs.
        gpu: Whether it is of use on a GPU only (true) or elsewhere only (false); None means everywhere.
    """

    overrides: Sequence[str] = ()
    change: Change = _nothing
    gpu: bool | None = None


PILLOW = '{"class_path": "Pilot", "init_args": {"pillow": true}}'
SINGLE, HALF = (("--trainer.precision", p) for p in ("32-true", "bf16-mixed"))
VARIANTS = {
    "no feature store": Variant(change=_forgetful),
    "one adapter at a time": Variant(change=_one_by_one),
    "stem for each adapter": Variant(change=_each_whole),
    "no picture cache": Variant(("--data.scenario.init_args.cache", "0")),
    "pictures varied by Pillow": Variant(("--data.scenario.init_args.transform", PILLOW), gpu=True),
    "plain attention": Variant(("--model.compute.attention", "plain"), gpu=True),
    "fused attention": Variant(("--model.compute.attention", "fused"), gpu=True),
    "checkpointed blocks": Variant(("--model.compute.checkpoint", "true"), gpu=True),
    "fused optimiser": Variant(("--model.compute.fused", "true")),
    "compiled": Variant(("--model.compute.compile", "true"), gpu=True),
    "single precision": Variant(SINGLE, gpu=True),
    "bf16": Variant(HALF, gpu=False),
}
"""By what a table calls them. A new optimisation gets a line here."""

"""The audit of all models: run, original, retrained models, pristine backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, final

from torch import Tensor

from cl_framework.auditing import probes
from cl_framework.auditing.attacks import Measured, answers, softmax_distances
from cl_framework.auditing.probes import PROBES, RELEARN_STEPS, STEPS
from cl_framework.auditing.reference_models import ReferenceTrainer
from cl_framework.auditing.subjects import Subject
from cl_framework.engine import checkpoint
from cl_framework.engine.learner import Learner
from cl_framework.metrics.unlearning import (
    anamnesis_index,
    clpu_ratio,
    gap_to_retrain,
    recovery_over_pristine,
    relearn_steps,
)
from cl_framework.streams.seeds import seed_for

_GAP = (
    "accuracy_forget_train",
    "accuracy_forget_test",
    "accuracy_retain_train",
    "accuracy_retain_test",
    "mia_confidence_max_auc",
)
"""Metrics that the gap to retrain averages over."""


@final
@dataclass(frozen=True, slots=True)
class References:
    """Models to compare a run with, each made when needed and freed afterwards.

    Attributes:
        original: Makes the model that learned everything and forgot nothing; None leaves it out.
        retrained: Make models that only met the retain set, the first with the run's seed.
    """

    original: Callable[[], Learner] | None = None
    retrained: tuple[Callable[[], Learner], ...] = ()


def references(trainer: ReferenceTrainer, about: Subject, seed: int, seeds: int) -> References:
    """Return how to make the original and ``seeds`` retrained models; none of them where ``seeds`` is 0."""

    def retrained(i: int) -> Callable[[], Learner]:
        own = seed if i == 0 else seed_for(f"retrained-{i}", seed)
        return lambda: trainer.learned(_column(i), about.remaining, own)

    if not seeds:
        return References()
    return References(lambda: trainer.learned("original", about.learned), tuple(retrained(i) for i in range(seeds)))


def conduct(
    run: Learner, about: Subject, trainer: ReferenceTrainer, reference_learners: References, relearning: bool = True
) -> dict[str, Measured]:
    """Measure every model; return metric -> model -> value. ``run`` itself is never changed.

    Relearning is left out where every class stays: a model that knows the class predicts the samples without having met
    them.
    """
    columns: dict[str, Measured] = {}
    softmaxes, curves = {}, {}
    original: tuple[dict[str, Tensor], dict[int, str]] | None = None
    for name, learner in _models(run, reference_learners):
        trainer.say(f"examining {name}")
        measured, p = answers(learner, about)
        measured |= probes.probes(learner.model, about)
        if name == "original":
            original = checkpoint.tensors(learner), dict(learner.model.known)
        if original is not None:
            measured["old_rows_accuracy"] = probes.accuracy_with_rows_back(trainer.copy(learner), about, *original)
        if relearning and about.vanished:  # the classes of single samples are known to every model
            curves[name] = probes.relearn(trainer.copy(learner), about, seed_for("relearn", run.model.seed))
            measured |= {f"relearn_accuracy_{k}": curves[name][k] for k in RELEARN_STEPS}
        columns[name], softmaxes[name] = measured, (p, learner.model.classes)
    columns["pristine"] = probes.probes(trainer.blank().model, about)
    for derived in (_relearned(columns, curves), _recovered(columns), _apart(softmaxes), _gaps(columns)):
        for name, values in derived.items():
            columns[name] |= values
    order: list[str] = [c for c in ("run", "original", "retrained") if c in columns]
    order += [c for c in columns if c not in (*order, "pristine")] + ["pristine"]
    metrics = dict.fromkeys(metric for name in order for metric in columns[name])
    return {m: {name: columns[name].get(m) for name in order} for m in metrics}


def _models(run: Learner, reference_learners: References) -> Iterator[tuple[str, Learner]]:
    """Yield one model after the other, so that only the needed ones are in memory."""
    if reference_learners.original is not None:
        yield "original", reference_learners.original()
    yield "run", run
    for i, make in enumerate(reference_learners.retrained):
        yield _column(i), make()


def _column(i: int) -> str:
    return "retrained" if i == 0 else f"retrained_{i + 1}"


def _relearned(columns: Mapping[str, Measured], curves: Mapping[str, Mapping[int, float]]) -> dict[str, Measured]:
    target = columns["original"]["accuracy_forget_train"] if "original" in columns else None
    if target is None:
        return {}
    steps = {name: relearn_steps(curve, target) for name, curve in curves.items()}
    relearned: dict[str, Measured] = {name: {"relearn_steps_5pct": k} for name, k in steps.items()}
    if "retrained" in steps:
        for name, k in steps.items():
            relearned[name]["anamnesis_index"] = anamnesis_index(k, steps["retrained"], STEPS)
    return relearned


def _recovered(columns: Mapping[str, Measured]) -> dict[str, Measured]:
    recovered: dict[str, Measured] = {name: {} for name in columns}
    for probe in PROBES if "original" in columns else ():
        low, high = columns["pristine"][probe], columns["original"][probe]
        for name, column in columns.items():
            value = column[probe]
            known = value is not None and low is not None and high is not None
            recovered[name][f"recovery_{probe.removesuffix('_accuracy')}"] = (
                recovery_over_pristine(value, low, high) if known else None  # type: ignore[arg-type]
            )
    return recovered


def _apart(softmaxes: Mapping[str, tuple[Any, Sequence[int]]]) -> dict[str, Measured]:
    """Distances of the softmax on forgotten training samples: to the retrained model, and to those of other seeds."""
    if "retrained" not in softmaxes:
        return {}
    distances: dict[str, Measured] = {}
    others = [name for name in softmaxes if name.startswith("retrained_")]
    within = _mean_js(softmaxes, "retrained", others)
    for name, one in softmaxes.items():
        l2, js = softmax_distances(one, softmaxes["retrained"]) or (None, None)
        across = _mean_js(softmaxes, name, others) if name not in others else None
        ratio = None if across is None or within is None else clpu_ratio(across, within)
        distances[name] = {
            "activation_distance_to_retrained": l2,
            "js_to_retrained": js,
            "js_to_other_seeds": across,
            "clpu_ratio": ratio,
        }
    return distances


def _mean_js(softmaxes: Mapping[str, tuple[Any, Sequence[int]]], name: str, others: Sequence[str]) -> float | None:
    pairs = [softmax_distances(softmaxes[name], softmaxes[other]) for other in others]
    known = [js for pair in pairs if pair for js in pair[1:]]
    return fmean(known) if known else None


def _gaps(columns: Mapping[str, Measured]) -> dict[str, Measured]:
    if "retrained" not in columns:
        return {}
    answered = {name: {m: c[m] for m in _GAP} for name, c in columns.items() if name != "pristine"}
    return {name: {"gap_to_retrain": gap_to_retrain(c, answered["retrained"])} for name, c in answered.items()}

"""What an audit may conclude from its numbers, and what it cannot because something was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from cl_framework.auditing.attacks import Measured
from cl_framework.auditing.probes import PROBES, RELEARN_STEPS

Metrics: TypeAlias = Mapping[str, Measured]
"""Metric -> model -> value, as `audit.conduct` returns it."""


@final
@dataclass(frozen=True, slots=True)
class Conclusion:
    """One statement about a run.

    Attributes:
        statement: What a run that forgot fulfils.
        holds: ``yes``, ``no``, or ``unknown`` where a measurement that it needs is missing.
        why: The numbers, or what is missing and how to get it.
    """

    statement: str
    holds: Literal["yes", "no", "unknown"]
    why: str


NO_RETRAINED = "needs a model that never saw the forget set: leave out --fast, or give --retrained DIR"


def conclusions(metrics: Metrics, single: bool = False) -> list[Conclusion]:
    """Return what the numbers say of answers, of features, and of learning it again.

    The measure is how far retrained models of several seeds are from the first: a run is told from them where it is
    farther than all of them.

    Args:
        metrics: What was measured.
        single: Whether every class stays: features and relearning then tell of the class alone, and attacks on
            membership take their place.
    """
    if single:
        return [_answers(metrics), _membership(metrics)]
    return [_answers(metrics), _features(metrics), _relearning(metrics)]


def _answers(metrics: Metrics) -> Conclusion:
    statement = "answers as a model that never saw the forget set"
    if (gap := metrics.get("gap_to_retrain", {}).get("run")) is None:
        return Conclusion(statement, "unknown", NO_RETRAINED)
    others = _others(metrics["gap_to_retrain"])
    reason = f"the gap to `retrained` is {gap:.3f}"
    if gap == 0:
        return Conclusion(statement, "yes", reason)
    if not others:
        return Conclusion(statement, "unknown", f"{reason}, and one retrained model shows no spread: use --seeds 2")
    return Conclusion(statement, _yes(gap <= max(others)), f"{reason}, among retrained models up to {max(others):.3f}")


def _features(metrics: Metrics) -> Conclusion:
    statement = "its features know no more of it than those of such a model"
    asked = {p: metrics[p] for p in PROBES if metrics.get(p, {}).get("run") is not None}
    if not asked:
        return Conclusion(statement, "unknown", "there are no test samples of what vanished")
    if any(values.get("retrained") is None for values in asked.values()):
        return Conclusion(statement, "unknown", NO_RETRAINED)
    return _most(statement, "probe", asked)


def _membership(metrics: Metrics) -> Conclusion:
    statement = "an attack separates the forget set from unseen samples no better than in such a model"
    asked = {m: v for m, v in metrics.items() if m.startswith("mia_") and m.endswith("_auc") and v["run"] is not None}
    if not asked:
        return Conclusion(statement, "unknown", "there are no test samples of their classes to compare with")
    if any(values.get("retrained") is None for values in asked.values()):
        return Conclusion(statement, "unknown", NO_RETRAINED)
    sure = {m: {k: None if a is None else abs(a - 0.5) for k, a in v.items()} for m, v in asked.items()}
    return _most(statement, "attack", sure)


def _most(statement: str, kind: str, asked: Metrics) -> Conclusion:
    """Conclude from the probe or attack that finds most in the run beyond what it finds in retrained models."""
    more = {p: _number(v["run"]) - max([_number(v["retrained"]), *_others(v)]) for p, v in asked.items()}
    best = max(more, key=more.__getitem__)
    if more[best] <= 0:
        return Conclusion(statement, "yes", f"no {kind} finds more than in retrained models")
    if not _others(asked[best]):
        why = f"{best} finds {more[best]:.3f} more, and one retrained model shows no spread: use --seeds 2"
        return Conclusion(statement, "unknown", why)
    return Conclusion(statement, "no", f"{best} finds {more[best]:.3f} more than in any retrained model")


def _relearning(metrics: Metrics) -> Conclusion:
    statement = "learned again, it comes back no faster than in such a model"
    if not any(m.startswith("relearn_accuracy_") for m in metrics):
        return Conclusion(statement, "unknown", "needs relearning: leave out --no-relearn")
    accuracy = metrics[f"relearn_accuracy_{RELEARN_STEPS[-1]}"]
    if "anamnesis_index" not in metrics or accuracy.get("retrained") is None:
        missing = "needs a model that never saw the forget set and one that forgot nothing: leave out --fast"
        return Conclusion(statement, "unknown", f"{missing}, or give --retrained DIR and --original DIR")
    indices = metrics["anamnesis_index"]
    if (index := indices.get("run")) is not None:
        least = min([1.0, *_others(indices)])
        reason = f"it takes {index:.2f} times the steps of `retrained`, retrained models at least {least:.2f}"
        return Conclusion(statement, _yes(index >= least), reason)
    mine, most = _number(accuracy["run"]), max([_number(accuracy["retrained"]), *_others(accuracy)])
    steps = RELEARN_STEPS[-1]
    reason = f"neither came back whole; accuracy after {steps} steps {mine:.3f}, of retrained models up to {most:.3f}"
    return Conclusion(statement, _yes(mine <= most), reason)


def _others(values: Measured) -> list[float]:
    """Return the values of the retrained models of other seeds."""
    return [v for name, v in values.items() if name.startswith("retrained_") and v is not None]


def _number(value: float | None) -> float:
    return 0.0 if value is None else value


def _yes(holds: bool) -> Literal["yes", "no"]:
    return "yes" if holds else "no"


def verdict_lines(all_conclusions: Sequence[Conclusion]) -> list[str]:
    """Return the conclusions for a terminal, one a line.

    >>> verdict_lines([Conclusion("answers", "yes", "the gap is 0")])
    ['yes       answers: the gap is 0']
    """
    return [f"{c.holds:<10}{c.statement}: {c.why}" for c in all_conclusions]

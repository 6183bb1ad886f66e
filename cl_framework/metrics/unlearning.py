"""Unlearning metrics: forgetting against retention. Plain numbers in, plain numbers out.

None means "nothing to measure" throughout; ``docs/audit.md`` explains the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from cl_framework.metrics.continual import Hits, micro_accuracy

_K = TypeVar("_K")


def h_mean(retain: float, forget_before: float, forget_after: float) -> float:
    """Harmonic mean of retained accuracy and of the drop on the forget set (GS-LoRA, Zhao et al., 2024).

    ``H = 2 * retain * drop / (retain + drop)`` with ``drop = forget_before - forget_after``. It has two names that
    differ in one argument: **H_step** takes ``forget_before`` just before this request; **H_pre** takes it from the
    model before any request, as the paper's tables do. Results report both.

    Args:
        retain: Accuracy on the retained classes after the request.
        forget_before: Accuracy on the forget set before.
        forget_after: The same after.

    Returns:
        A value in [0, 1]; 0.0 when nothing dropped or nothing is retained, where no harmonic mean exists.

    >>> h_mean(retain=1.0, forget_before=1.0, forget_after=0.5)
    0.6666666666666666
    >>> h_mean(retain=0.9, forget_before=0.5, forget_after=0.6)
    0.0
    """
    drop = forget_before - forget_after
    return 2 * retain * drop / (retain + drop) if retain > 0 and drop > 0 else 0.0


def gap_to_retrain(measured: Mapping[str, float | None], retrained: Mapping[str, float | None]) -> float | None:
    """Mean absolute difference to the retrained model: ``mean_m |measured[m] - retrained[m]|`` ("Avg. Gap").

    Names that either side lacks, or holds None for, are left out; None if none is left.

    >>> gap_to_retrain({"a": 0.5, "b": 1.0, "c": None}, {"a": 0.25, "b": 1.0, "c": 0.3})
    0.125
    """
    pairs = [(v, retrained.get(name)) for name, v in measured.items()]
    gaps = [abs(v - r) for v, r in pairs if v is not None and r is not None]
    return fmean(gaps) if gaps else None


def relapse_max_later(after: float | None, later: Sequence[float | None]) -> float | None:
    """Forgetting undone by later requests: ``max(later) - after``, accuracies on the forget set; None without any.

    >>> relapse_max_later(0.25, [0.25, None, 0.75, 0.5])
    0.5
    >>> relapse_max_later(0.25, []) is None
    True
    """
    values = [v for v in later if v is not None]
    return max(values) - after if values and after is not None else None


def erosion_staying(before: Mapping[_K, Hits], after: Mapping[_K, Hits]) -> float | None:
    """Accuracy that a request costs the retained classes: before minus after, over the classes of ``after``.

    Accuracies are pooled over samples. Positive: knowledge was lost. Negative: competing classes are gone.

    Args:
        before: Class, or exam and class -> ``(right, total)`` just before the request.
        after: The same just after it; forgotten classes are not in it.

    >>> erosion_staying({1: (9, 10), 2: (10, 10), 3: (0, 10)}, {1: (8, 10), 2: (6, 10)})
    0.25
    """
    stay = [c for c in after if c in before]
    then, now = micro_accuracy(before[c] for c in stay), micro_accuracy(after[c] for c in stay)
    return None if then is None or now is None else then - now


def spillover_exams(
    before: Mapping[str, Mapping[int, Hits]], after: Mapping[str, Mapping[int, Hits]]
) -> dict[str, float]:
    """Drop of each exam that loses no class to a request: accuracy before minus after, by exam.

    >>> spillover_exams({"a": {0: (3, 4)}, "b": {1: (1, 2), 2: (2, 2)}}, {"a": {0: (2, 4)}, "b": {2: (2, 2)}})
    {'a': 0.25}
    """
    drops = {}
    for name, exam in after.items():
        then, now = micro_accuracy(before.get(name, {}).values()), micro_accuracy(exam.values())
        if then is not None and now is not None and set(before[name]) == set(exam):
            drops[name] = then - now
    return drops


def relearn_steps(curve: Mapping[int, float], target: float, tolerance: float = 0.05) -> int | None:
    """Steps of relearning until accuracy comes within ``tolerance`` of ``target``: ``min k: a_k >= (1 - tol) target``.

    Args:
        curve: Steps taken -> accuracy on the forget set, in order; 0 is before the first step.
        target: The original model's accuracy on the same.
        tolerance: A share of the target (0.05 to 0.1 in the literature).

    Returns:
        A number of steps, or None if the curve never does.

    >>> relearn_steps({0: 0.0, 1: 0.5, 5: 0.97, 10: 0.8}, target=1.0)
    5
    >>> relearn_steps({0: 0.0, 1: 0.5}, target=1.0) is None
    True
    """
    return next((k for k, a in curve.items() if a >= (1 - tolerance) * target), None)


def anamnesis_index(unlearned: int | None, retrained: int | None, longest: int) -> float | None:
    """Relearning time compared with an innocent model: ``AIN = r(unlearned) / r(retrained)`` (Chundawat et al., 2023).

    About 1: as slow as a model that never knew. Far below 1: hidden knowledge. Far above: over-erased.

    Args:
        unlearned: Steps until relearned; None if more than ``longest``.
        retrained: The same of the retrained model.
        longest: Steps that were tried; None counts as one more, so that the index is then a bound.

    Returns:
        The ratio; None if neither relearned, or only the retrained one needed no step at all.

    >>> anamnesis_index(2, 8, longest=30), anamnesis_index(0, 0, longest=30), anamnesis_index(3, None, longest=29)
    (0.25, 1.0, 0.1)
    """
    if unlearned is None and retrained is None:
        return None
    u, r = (longest + 1 if steps is None else steps for steps in (unlearned, retrained))
    return 1.0 if u == r else u / r if r else None


def recovery_over_pristine(unlearned: float, pristine: float, original: float) -> float | None:
    """Share of the accuracy gained in training that a probe recovers: ``(p_u - p_pristine) / (p_orig - p_pristine)``.

    0: the features know no more than the backbone did before any training. 1: as much as before forgetting.

    Returns:
        The ratio; None where training added nothing to this probe (``original <= pristine``).

    >>> [recovery_over_pristine(u, 0.5, 1.0) for u in (0.5, 0.75, 1.0)]
    [0.0, 0.5, 1.0]
    >>> recovery_over_pristine(0.5, 0.5, 0.5) is None
    True
    """
    return (unlearned - pristine) / (original - pristine) if original > pristine else None


def clpu_ratio(across: float, within: float) -> float | None:
    """Distance to retrained models against their own spread: ``|AGJS - IGJS| / IGJS`` (CLPU, Liu et al., 2022).

    Args:
        across: Mean divergence between the unlearned model and models that never met what was forgotten (AGJS).
        within: Mean divergence among the latter, which differ in their seed (IGJS).

    Returns:
        0 if it is one of them. None where they do not differ (1e-9 or less, which is rounding) and it does.

    >>> clpu_ratio(0.25, 0.125), clpu_ratio(0.0, 0.0), clpu_ratio(0.1, 0.0)
    (1.0, 0.0, None)
    """
    if across == within or max(across, within) <= 1e-9:
        return 0.0
    return abs(across - within) / within if within > 1e-9 else None

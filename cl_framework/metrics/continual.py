"""Continual-learning metrics, all of them fractions in [0, 1] or differences of such.

``matrix[i][j]`` is the accuracy on exam ``j`` after request ``i``: one row per request (learn and forget alike), one
column per learned experience in order. An entry is None, or missing at the end of a short row, when exam ``j`` is not
yet learned or none of its classes is alive. The first entry of a column is therefore the accuracy right after learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypeAlias

Matrix: TypeAlias = Sequence[Sequence[float | None]]
Hits: TypeAlias = tuple[int, int]


def micro_accuracy(hits: Iterable[Hits]) -> float | None:
    """Accuracy over all samples: ``sum(right) / sum(total)``; None without samples.

    Args:
        hits: ``(right, total)`` of each class.

    >>> micro_accuracy([(9, 10), (1, 2)])
    0.8333333333333334
    """
    pairs = list(hits)
    total = sum(t for _, t in pairs)
    return sum(r for r, _ in pairs) / total if total else None


def mean_class_accuracy(hits: Iterable[Hits]) -> float | None:
    """Accuracy of each class, averaged over classes (macro): ``mean(right / total)``; None without samples.

    >>> mean_class_accuracy([(9, 10), (1, 2)])
    0.7
    """
    per_class = [r / t for r, t in hits if t]
    return fmean(per_class) if per_class else None


def average_incremental_accuracy(curve: Sequence[float | None]) -> float | None:
    """Mean of the accuracy over all live classes after each request (A-bar); requests that leave no class are skipped.

    Nothing is rounded; published tables often round each term to 0.01 % first.

    >>> average_incremental_accuracy([1.0, 0.75, 0.5])
    0.75
    """
    values = [v for v in curve if v is not None]
    return fmean(values) if values else None


def final_accuracy(curve: Sequence[float | None]) -> float | None:
    """Accuracy over all live classes after the last request (A_B).

    >>> final_accuracy([1.0, 0.75, 0.5])
    0.5
    """
    return curve[-1] if curve else None


def forgetting_max_past(matrix: Matrix) -> float:
    """Best earlier accuracy minus the last: ``mean_j(max_{i < T} R[i][j] - R[T][j])``.

    The mean runs over every exam but the one learned last, leaving out exams without a last entry; 0.0 if none is left.
    The maximum does not see the last row, so that a stream that improves gets a negative value (Chaudhry et al., 2018).

    >>> round(forgetting_max_past([[0.5], [0.9, 0.8], [0.6, 0.7, 0.9]]), 9)
    0.2
    """
    return _mean(max(earlier) - last for earlier, last in _past(matrix))


def forgetting_max_all(matrix: Matrix) -> float:
    """Best accuracy of all minus the last: ``mean_j(max_i R[i][j] - R[T][j])``, over the same exams.

    The maximum sees the last row too, so that an exam which is at its best there counts 0 and nothing counts negative.
    This is the forgetting that PILOT and MOS (Sun et al., 2025) report.

    >>> round(forgetting_max_all([[0.5], [0.9, 0.8], [0.6, 0.9, 0.9]]), 9)
    0.15
    """
    return _mean(max(*earlier, last) - last for earlier, last in _past(matrix))


def forgetting_diag(matrix: Matrix) -> float:
    """Accuracy right after learning minus the last: ``mean_j(R[j][j] - R[T][j])``, over the same exams.

    >>> round(forgetting_diag([[0.5], [0.9, 0.8], [0.75, 0.75, 0.9]]), 9)
    -0.1
    """
    return _mean(earlier[0] - last for earlier, last in _past(matrix))


def backward_transfer(matrix: Matrix) -> float:
    """Last accuracy minus that right after learning: ``mean_j(R[T][j] - R[j][j])`` (GEM, Lopez-Paz and Ranzato, 2017).

    >>> round(backward_transfer([[0.5], [0.9, 0.8], [0.75, 0.75, 0.9]]), 9)
    0.1
    """
    return _mean(last - earlier[0] for earlier, last in _past(matrix))


def plasticity(matrix: Matrix) -> float | None:
    """Mean accuracy on each experience right after learning it: ``mean_j R[j][j]``; None without exams.

    >>> plasticity([[0.5], [None, 1.0]])
    0.75
    """
    diagonal = [entries[0] for entries in _exams(matrix)]
    return fmean(v for v in diagonal if v is not None) if diagonal else None


def _exams(matrix: Matrix) -> list[list[float | None]]:
    """Return each column from the row that learned it to the last row; columns that hold nothing are left out."""
    columns = [[row[j] if j < len(row) else None for row in matrix] for j in range(max(map(len, matrix), default=0))]
    learned = [next((i for i, v in enumerate(c) if v is not None), None) for c in columns]
    return [c[i:] for c, i in zip(columns, learned, strict=True) if i is not None]


def _past(matrix: Matrix) -> list[tuple[list[float], float]]:
    """Return, for each exam but the one learned last, its earlier entries and its last one; without a last, no exam."""
    pairs = [([v for v in e[:-1] if v is not None], e[-1]) for e in _exams(matrix)[:-1]]
    return [(earlier, last) for earlier, last in pairs if earlier and last is not None]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return fmean(numbers) if numbers else 0.0

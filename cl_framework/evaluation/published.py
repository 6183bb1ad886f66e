"""Published figures of a setting, and comparison of a run with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from cl_framework.errors import UserError

FIGURES = ("average_incremental_accuracy", "final_accuracy")


@final
@dataclass(frozen=True, slots=True)
class Published:
    """The ``published:`` section of a config: figures in percent, and their source.

    Attributes:
        source: Paper and table, or log.
        average_incremental_accuracy: Mean accuracy over the experiences, if reported.
        final_accuracy: Accuracy after the last experience, if reported.
        tolerance: Allowed difference of a faithful run in points: seeds, hardware, another random split.
    """

    source: str
    average_incremental_accuracy: float | None = None
    final_accuracy: float | None = None
    tolerance: float = 1.0


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure beside the published one, in percent."""

    figure: str
    published: float
    measured: float
    tolerance: float

    @property
    def inside(self) -> bool:
        """Whether the two differ by no more than the tolerance."""
        return abs(self.measured - self.published) <= self.tolerance


def verdicts(published: Published, results: Mapping[str, Any]) -> list[Verdict]:
    """Compare what a run measured (fractions, as in results.json) with what was published.

    >>> told = Published("Table 1", final_accuracy=85.8, tolerance=0.5)
    >>> [(v.figure, v.inside) for v in verdicts(told, {"final_accuracy": 0.862})]
    [('final_accuracy', True)]
    >>> verdicts(told, {"final_accuracy": 0.864})[0].inside
    False

    Raises:
        UserError: If the run did not measure what was published.
    """
    reported = {f: v for f in FIGURES if (v := getattr(published, f)) is not None}
    if lacking := [f for f in reported if results.get(f) is None]:
        raise UserError(f"The run measured no {lacking[0]}, which was published; run the setting as it stands.")
    return [Verdict(f, v, 100 * results[f], published.tolerance) for f, v in reported.items()]

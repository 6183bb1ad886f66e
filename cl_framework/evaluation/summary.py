"""Summary of a run's ``results.json``: the numbers that runs are compared by. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cl_framework.storage.typed_records import parsed


class Seconds(msgspec.Struct, frozen=True):
    """The totals of a run, as far as they are compared."""

    seconds: float | None = None


class Overlap(msgspec.Struct, frozen=True):
    """How far the subspaces of adapters meet, on average."""

    mean_input: float | None = None
    mean_output: float | None = None


class Summary(msgspec.Struct, frozen=True):
    """Fields of ``results.json``, accuracies as fractions; None where nothing was measured."""

    strategy: str | None = None
    average_incremental_accuracy: float | None = None
    final_accuracy: float | None = None
    forgetting_max_past: float | None = None
    plasticity: float | None = None
    cost: Seconds = Seconds()
    overlap: Overlap | None = None
    trial: str | None = None


def read_summary(run: Path) -> Summary | None:
    """Return the summary of a run; None where it has no results yet.

    Raises:
        UserError: If the file is not JSON, or a field has another type.
    """
    file = run / "results.json"
    if not file.is_file():  # nor a pipe, which may never end
        return None
    return parsed(file.read_bytes(), Summary, file, f"delete it, and `clf resume {run}` writes it again")

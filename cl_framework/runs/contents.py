"""Content of a run: measurements of its events, and its known samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_framework.evaluation.results import EventResult
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.sample_list import ListedSample, listed_samples
from cl_framework.streams.sample_list_file import decode_list

if TYPE_CHECKING:
    from cl_framework.runs.directory import RunDirectory


def event_results(run: RunDirectory) -> list[EventResult]:
    """Return the record after each event of a run, oldest first.

    Raises:
        UserError: If a file is missing, edited, or has a field of another type.
    """
    return [EventResult.from_dict(run.metrics(e), run.path / e.metrics) for e in run.events()]


def known_samples(run: RunDirectory) -> list[ListedSample]:
    """Return every sample that a run knows and has not forgotten; empty if its stream can list none.

    Raises:
        UserError: If the list was edited.
    """
    raw = run.samples()
    return [] if raw is None else listed_samples(decode_list(raw))

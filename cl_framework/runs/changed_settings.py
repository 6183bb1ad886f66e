"""Settings with which a run goes on beside its config, as its events record them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_framework.configuration.optimiser import apart
from cl_framework.errors import UserError
from cl_framework.runs.records import EventRecord
from cl_framework.storage.typed_records import RESTORE, typed

NOTE = "changed"
"""Where an event's record says which."""


def changed(events: Sequence[EventRecord], run: Path) -> list[str]:
    """Return the options with which the last event of a run was carried out beside its config.

    Raises:
        UserError: If the record names others than those that may change.
    """
    if not events or NOTE not in events[-1].state:
        return []
    place = run / events[-1].place
    words: list[str] = typed(events[-1].state[NOTE], list[str], f"{place}, {NOTE},")
    if apart(words)[1]:
        raise UserError(f"{place} is damaged at {NOTE}: it changes other settings than the optimiser's; {RESTORE}.")
    return words

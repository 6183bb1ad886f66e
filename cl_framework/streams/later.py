"""Later requests of a run, as an event's record holds them."""

from __future__ import annotations

import msgspec

from cl_framework.streams.events import Need


class LaterRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A later forget request: classes by id, samples by id or keyed hash, cells as (experience, class)."""

    classes: list[int] = []
    experiences: list[str] = []
    samples: list[int | str] = []
    missing: list[Need] = []
    cells: list[tuple[str, int]] = []


class Later(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A later request: what to forget, or arguments that describe what to learn.

    Attributes:
        forget: What to forget.
        learn: Arguments that describe a scenario.
        data: The fingerprint of its data.
        as_new: Prefix of the names of its classes, so that none equals a known one.
        ids: Class ids of each experience that it brings. Forgotten classes have no name to find them by.
        again: New ids of classes that had been forgotten, each with the id before.
    """

    forget: LaterRequest | None = None
    learn: list[str] | None = None
    data: str | None = None
    as_new: str | None = None
    ids: list[list[int]] | None = None
    again: list[tuple[int, int]] = []

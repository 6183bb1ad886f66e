"""Records of events in a run directory, and what follows from all of them. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from cl_framework.errors import UserError
from cl_framework.runs.receipts import Receipt
from cl_framework.storage.envelopes import Signature
from cl_framework.storage.files import TEMPORARY, encode_json, seal, sha256, unseal
from cl_framework.storage.typed_records import RESTORE, FileEntry, typed

EVENTS, FEATURES, SAMPLES = "events", "features", "samples"


class EventRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A committed event, as in its ``state.json``.

    Attributes:
        run: Hash of the manifest of the run it belongs to.
        folder: Its directory under ``events/``, such as ``000-learn-task-0``.
        name: The event's name in the stream.
        kind: ``learn`` or ``forget``.
        state: JSON values to restore on resume.
        tensors: Fingerprint of each tensor stored here.
        removed: Tensors that ended with this event.
        files: Hash and size of each file, by place within the run.
        fresh: Whether its features replace all earlier ones rather than add to them.
        receipt: For a forget event, the content of its line in ``receipts.jsonl``.
        signatures: Of that line; None where an earlier version wrote the receipt, as a plain line.
    """

    run: str
    folder: str
    name: str
    kind: Literal["learn", "forget"]
    state: dict[str, Any]
    tensors: dict[str, str]
    removed: list[str]
    files: dict[str, FileEntry]
    fresh: bool = False
    receipt: dict[str, Any] | None = None
    signatures: tuple[Signature, ...] | None = None

    @property
    def facts(self) -> Receipt | None:
        """The part of its receipt that is read again."""
        return None if self.receipt is None else typed(self.receipt, Receipt, f"{self.place}, receipt,")

    @property
    def place(self) -> str:
        """The place of its record."""
        return f"{EVENTS}/{self.folder}/state.json"

    @property
    def data(self) -> str:
        """The place of its tensors."""
        return f"{EVENTS}/{self.folder}/state.safetensors"

    @property
    def metrics(self) -> str:
        """The place of its metrics."""
        return f"{EVENTS}/{self.folder}/metrics.json"

    @property
    def features(self) -> str:
        """The place of its features, if it has any."""
        return f"{FEATURES}/{self.folder}.safetensors"

    @property
    def samples(self) -> str:
        """The place of the run's list of samples, if it changed that."""
        return f"{SAMPLES}/{self.folder}.json"

    @property
    def lasting(self) -> dict[str, Any]:
        """Fields that no later request changes: all but its receipt and its tensors, which later ones may delete."""
        own = ("tensors", "receipt", "signatures")
        record: dict[str, Any] = msgspec.to_builtins(self)
        files = {place: entry for place, entry in record["files"].items() if place != self.data}
        return {**{k: v for k, v in record.items() if k not in own}, "files": files}

    @property
    def record(self) -> bytes:
        """The content of its ``state.json``."""
        return seal(msgspec.to_builtins(self))


def folder_name(number: int, kind: str, name: str) -> str:
    """Return a directory name that sorts and that every file system takes.

    >>> folder_name(3, "forget", "class 7/8")
    '003-forget-class-7-8'
    """
    return f"{number:03d}-{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:80]}"


def read_event(path: Path, run: str, folder: str) -> EventRecord:
    """Read one event of the run at ``path`` whose manifest has the hash ``run``.

    Raises:
        UserError: If its record is missing, edited, or from another run or place.
    """
    place = path / EVENTS / folder / "state.json"
    event = unseal(place, EventRecord)
    if (event.run, event.folder) != (run, folder):
        raise UserError(f"{place} was not written by this run in this place; {RESTORE}.")
    own = {event.data, event.metrics}
    if not own <= event.files.keys() <= {*own, event.features, event.samples}:
        raise UserError(f"{place} is damaged at files: it names other files than its own; {RESTORE}.")
    if event.receipt is not None:
        typed(event.receipt, Receipt, f"{place}, receipt,")  # here already, so that the whole path is named
    return event


def committed(path: Path) -> list[str]:
    """Return the directories of committed events in order."""
    names = [p.name for p in (path / EVENTS).glob("*") if re.match(r"\d{3,}-", p.name)]
    return sorted(names, key=lambda name: (int(name.partition("-")[0]), name))


def gaps(path: Path) -> list[str]:
    """Return where the numbering of events breaks: one is missing, or there twice."""
    problems, expected = [], 0
    for name in committed(path):
        number = int(name.partition("-")[0])
        if number != expected:
            problem = f"event {expected:03d} is missing before it" if number > expected else "its number is taken twice"
            problems.append(f"{path / EVENTS / name} is out of order: {problem}")
        expected = number + 1
    return problems


def overlay(events: Sequence[EventRecord]) -> dict[str, str]:
    """Return the fingerprint of each tensor that the events together leave, the later one winning."""
    fingerprints: dict[str, str] = {}
    for event in events:
        fingerprints |= event.tensors
        for name in event.removed:
            fingerprints.pop(name, None)
    return fingerprints


def state_hash(fingerprints: Mapping[str, str]) -> str:
    """Return one hash over the fingerprints of all tensors of a state.

    >>> state_hash({"a": "0", "b": "1"}) == state_hash({"b": "1", "a": "0"}) != state_hash({"a": "0"})
    True
    """
    return sha256(encode_json(dict(sorted(fingerprints.items())), indent=None))


def history_hash(events: Sequence[EventRecord]) -> str:
    """Return one hash over the fixed parts of events: facts, measurements, features, and the run's manifest."""
    return sha256(encode_json({"events": [e.lasting for e in events]}, indent=None))


def outdated(events: Sequence[EventRecord]) -> Iterator[tuple[EventRecord, set[str]]]:
    """Yield events that store tensors which were replaced or removed up to the last forget event, with their names."""
    last = max((i for i, e in enumerate(events) if e.kind == "forget"), default=-1)
    for i, event in enumerate(events[: max(last, 0)]):
        later = {name for e in events[i + 1 : last + 1] for name in [*e.tensors, *e.removed]}
        if dead := later & event.tensors.keys():
            yield event, dead


def feature_events(events: Sequence[EventRecord]) -> list[EventRecord]:
    """Return the events whose features count: those with features, from the last full set on."""
    start = max((i for i, e in enumerate(events) if e.fresh), default=0)
    return [e for e in events[start:] if e.features in e.files]


def sample_event(events: Sequence[EventRecord]) -> EventRecord | None:
    """Return the event whose list of samples counts: the last that has one."""
    return next((e for e in reversed(events) if e.samples in e.files), None)


def files_that_count(events: Sequence[EventRecord]) -> dict[str, FileEntry]:
    """Return hash and size of every file that counts, by place within the run."""
    counting, last = {e.features for e in feature_events(events)}, sample_event(events)
    counting |= {last.samples} if last is not None else set()
    return {
        place: entry
        for e in events
        for place, entry in e.files.items()
        if place not in (e.features, e.samples) or place in counting
    }


def strays(path: Path, events: Sequence[EventRecord]) -> list[Path]:
    """Return files in the run that do not belong to it: leftovers of killed writes, and foreign files."""
    known = {path / place for place in files_that_count(events)} | {path / e.place for e in events}
    foreign = [*path.glob(TEMPORARY + "*"), *path.glob(f"figures/{TEMPORARY}*")]
    for top in (path / EVENTS, path / FEATURES, path / SAMPLES):
        for child in sorted(top.glob("*")):
            whole = child.name.startswith(TEMPORARY) or not child.is_dir()
            foreign += [p for p in ([child] if whole else sorted(child.iterdir())) if p not in known]
    return foreign

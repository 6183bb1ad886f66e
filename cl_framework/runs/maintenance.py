"""Maintenance of a run directory: recovery after a kill, removal of forgotten tensors from old files, checks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from cl_framework.errors import UserError
from cl_framework.runs import derived_files, receipts, relocation
from cl_framework.runs.records import (
    EVENTS,
    FEATURES,
    SAMPLES,
    EventRecord,
    committed,
    feature_events,
    files_that_count,
    gaps,
    history_hash,
    outdated,
    overlay,
    read_event,
    state_hash,
    strays,
)
from cl_framework.storage import files as storage_files
from cl_framework.storage import tensors as storage_tensors
from cl_framework.storage.files import TEMPORARY, find_listed, read_listed, sibling
from cl_framework.storage.typed_records import RESTORE

START = ("manifest.json", "config.yaml", receipts.KEY, ".lock", relocation.MOVES_FILE)
"""Files of a run without events."""


def sweep(path: Path, events: Sequence[EventRecord]) -> None:
    """Bring the run at ``path`` to the state its events describe; idempotent.

    Raises:
        UserError: If a file was edited, or the disk refuses.
    """
    receipted = {line.receipt.event for line in receipts.whole(path)}
    try:
        for place, entry in files_that_count(events).items():
            waiting = sibling(path / place)
            if waiting.exists() and storage_files.entry(waiting.read_bytes()) == entry:
                storage_files.rename(waiting, path / place)
        remove_leftovers(path, events)
        for event, dead in outdated(events):
            take_out(path, event, dead)
        derived_files.expire(path, max((i for i, e in enumerate(events, 1) if e.kind == "forget"), default=0))
        for event in events:  # a line is written last: it completes everything above
            if event.receipt is not None and event.folder not in receipted:
                receipts.append(path, {"event": event.folder, **event.receipt}, event.signatures)
    except OSError as error:
        raise UserError(
            f"Every event is complete, but tidying up {path} stopped ({error.strerror}); "
            f"make room, then `clf resume {path}`."
        ) from error


def remove_leftovers(path: Path, events: Sequence[EventRecord]) -> None:
    """Remove temporary files, features and lists of samples that no event lists; files that are not ours stay."""
    ours = (FEATURES, ".safetensors"), (SAMPLES, ".json")
    for stray in strays(path, events):
        if stray.name.startswith(TEMPORARY) or (stray.parent.name, stray.suffix) in ours:
            storage_files.remove(stray)
            storage_files.sync(stray.parent)  # before a receipt says that it is gone


_OWN = {"manifest.json", "config.yaml", ".lock", receipts.KEY, receipts.FILE, derived_files.INDEX, *derived_files.MAY}
_OWN |= {relocation.MOVES_FILE}
"""Files that a run writes and replaces beside its events."""


def refuse_links(path: Path) -> None:
    """Refuse a run in which a file or folder of its own is a symbolic link: its target is not the run's.

    A pipe, a socket or a device is refused too: opening one may block for ever.

    Raises:
        UserError: If one is; it is named, with what it points to.
    """
    own = {place.partition("/")[0] for place in _OWN} | {EVENTS, FEATURES, SAMPLES}
    top = (p for p in path.iterdir() if p.name in own or p.name.startswith(TEMPORARY))
    inside = (
        Path(folder, name)
        for place in (EVENTS, FEATURES, SAMPLES, "figures")
        for folder, folders, files in os.walk(path / place)
        for name in (*folders, *files)
    )
    for place in (*top, *inside):
        storage_files.refuse_link(place)
        if not (place.is_file() or place.is_dir()):
            raise UserError(f"{place} is neither a file nor a folder; remove it.")


def eventless(path: Path) -> bool:
    """Tell whether a run has no events, so that a new start loses nothing."""
    files = {p.name for p in path.iterdir() if p.is_symlink() or not p.is_dir()}
    return files <= {*START, *(sibling(path / n).name for n in START)} and not committed(path)


def discard(path: Path) -> None:
    """Delete a run without events; one with events, or with foreign folders, stays.

    Raises:
        UserError: If the disk refuses.
    """
    if not eventless(path):
        return
    try:
        remove_leftovers(path, [])
        folders = [p for p in path.iterdir() if p.is_dir() and not p.is_symlink()]
        if any(any(folder.iterdir()) for folder in folders):
            return
        for name in START:  # without the first it is no run any more
            for file in (path / name, sibling(path / name)):
                file.unlink(missing_ok=True)
        for folder in (*folders, path):
            folder.rmdir()
    except OSError as error:
        raise UserError(f"Could not remove {path} ({error.strerror}); delete it yourself.") from error


def foreign(path: Path, events: Sequence[EventRecord]) -> list[str]:
    """Return files under ``path``, by place, that the run neither writes nor checks: logs of trainers, notes."""
    own = _OWN | {*derived_files.recorded_files(path), *files_that_count(events), *(e.place for e in events)}
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and TEMPORARY not in str(p.relative_to(path)))
    return [place for p in files if (place := p.relative_to(path).as_posix()) not in own]


def take_out(path: Path, event: EventRecord, dead: set[str]) -> None:
    """Rewrite an event's file without the tensors ``dead``.

    The new file waits under its temporary name, the record changes, the file is renamed. Between any two steps
    `read_listed` finds the file of the record.
    """
    file = path / event.data
    tensors = storage_tensors.unpack(read_listed(file, event.files[event.data]))
    data = storage_tensors.pack({n: t for n, t in tensors.items() if n not in dead})
    kept = {n: d for n, d in event.tensors.items() if n not in dead}
    event = replace(event, tensors=kept, files={**event.files, event.data: storage_files.entry(data)})
    storage_files.write(sibling(file), data)
    storage_files.sync(file.parent)
    storage_files.replace(file.with_name("state.json"), event.record)
    storage_files.rename(sibling(file), file)


def bytes_to_remove(path: Path, events: Sequence[EventRecord], new: EventRecord) -> int:
    """Return the bytes of tensors and features that leave the files of ``events`` when ``new`` follows them."""
    total = 0
    for event, dead in outdated([*events, new]):
        spans = storage_tensors.spans(read_listed(path / event.data, event.files[event.data]), path / event.data)
        total += sum(span.bytes for name, span in spans.items() if name in dead)
    if new.fresh:
        old = sum(e.files[e.features].bytes for e in feature_events(events))
        total += old - (new.files[new.features].bytes if new.features in new.files else 0)
    return total


def run_problems(path: Path, run: str) -> list[str]:
    """Return every problem of the run at ``path`` whose manifest has the hash ``run``, each naming a file."""
    problems, events = gaps(path), list[EventRecord]()
    for folder in committed(path):
        try:
            events.append(read_event(path, run, folder))
        except UserError as error:
            problems.append(str(error))
    complete = not problems
    for place, entry in files_that_count(events).items():
        try:
            find_listed(path / place, entry)
        except UserError as error:
            problems.append(str(error))
    problems += (fault for event in events if (fault := swapped(path, event)))
    for event, dead in outdated(events) if complete else ():
        left = f"{path / event.data} still holds {min(dead)!r}, which a later request took or replaced"
        problems.append(f"{left}; `clf resume {path}` takes it out.")
    if complete:  # otherwise what looks foreign may belong to an event that cannot be read
        hint = f"`clf resume {path}` removes what a killed process left"
        problems += [f"{stray} does not belong to the run; {hint}." for stray in strays(path, events)]
    return problems + (receipts.check_chain(path) or unmatched_receipts(path, events, complete))


def swapped(path: Path, event: EventRecord) -> str | None:
    """Return a problem if an event's file holds other tensors than its record lists.

    Damage of the whole file is reported elsewhere.
    """
    file = path / event.data
    try:
        fingerprints = storage_tensors.fingerprints(read_listed(file, event.files[event.data]), file)
    except UserError as error:
        return str(error) if "holds no tensors" in str(error) else None
    wrong = sorted(n for n in fingerprints.keys() | event.tensors.keys() if fingerprints.get(n) != event.tensors.get(n))
    return f"{file} holds another {wrong[0]!r} than its record tells: it was replaced; {RESTORE}." if wrong else None


def unmatched_receipts(path: Path, events: Sequence[EventRecord], complete: bool) -> list[str]:
    """Compare the receipts with the events; ``complete`` tells whether all events could be read."""
    lines, file = receipts.read_receipts(path), path / receipts.FILE
    due = [{"event": e.folder, **e.receipt} for e in events if e.receipt is not None]
    problems = [f"{file} has no line for {r['event']}; `clf resume {path}` writes it." for r in due if r not in lines]
    if complete:
        problems += [f"{file} line {i} tells of no event of this run." for i, r in enumerate(lines, 1) if r not in due]
    problems += [
        f"{path / e.place} has no receipt, and every request to forget has one; {RESTORE}."
        for e in events
        if e.kind == "forget" and e.receipt is None
    ]
    asked = [(i, facts) for i, e in enumerate(events) if (facts := e.facts) and facts.state]
    for i, facts in asked[-1:] if complete else ():  # state of earlier lines is deleted, as it should be
        if facts.state and state_hash(overlay(events[: i + 1])) != facts.state.after:
            problems.append(f"{file} speaks of another state after {events[i].folder} than the events hold.")
    for i, facts in asked if complete else ():
        if facts.history != history_hash(events[: i + 1]):
            problems.append(f"{file} speaks of another history up to {events[i].folder} than the events tell.")
    return problems

"""One line for each forget request, each holding the hash of the line before: an edit or a gap shows.

A receipt names no class and no sample. It holds their keyed hashes (HMAC-SHA-256 under the run's own random ``key``
file): whoever holds the key can ask whether a given sample was covered, and deleting the key makes that unanswerable.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

from cl_framework.errors import UserError
from cl_framework.storage.files import broken_seal, encode, replace, seal, sha256
from cl_framework.storage.typed_records import Count, decode, parsed
from cl_framework.streams.identifiers import digest

FILE, KEY = "receipts.jsonl", "key"
FIRST = "0" * 64
STATEMENT = (
    "An integrity record of what this program did to this run directory. It is no legal proof of deletion, and says "
    "nothing about copies, exports or logs kept elsewhere."
)


class Keyed(TypedDict):
    """How many of something a request named, and the keyed hash of each."""

    count: Count
    keyed: list[str]


class Settings(TypedDict):
    """An unlearner's settings, and their hash."""

    values: dict[str, Any]
    sha256: str


class State(TypedDict):
    """One hash over all tensors, before a request and after it."""

    before: str
    after: str


class Line(TypedDict, total=False):
    """What is read of a receipt again; a line holds more, as `docs/receipts.md` lists."""

    event: str
    request: str
    method: str
    settings: Settings
    classes: Keyed
    experiences: Keyed
    samples: Keyed
    state: State
    history: str
    artifacts: dict[str, tuple[str | None, str | None]]
    signature: str
    previous: str
    sha256: str


def draft(
    run: Path,
    request: str,
    classes: Collection[int],
    samples: Collection[int],
    method: str,
    exact: bool,
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    experiences: Collection[str] = (),
    requester: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what a receipt says; the run adds the hashes of what changed when it commits the event.

    Args:
        run: The run directory, which holds the key.
        request: The request's name.
        classes: Ids of the classes that went.
        samples: Ids of the samples that went.
        method: The unlearner's name.
        exact: Whether the result equals never having learned them.
        before: Accuracies by name, such as ``forget`` and ``retain``, before the request.
        after: The same afterwards.
        experiences: Names of the experiences that lost something.
        requester: Who asked, in words of the user's choice; only its keyed hash is kept.
        more: What else the receipt says, as `docs/receipts.md` lists it.
    """
    key = run_key(run)
    who = {} if requester is None else {"requester": digest(key, "requester", requester)}
    scope = (("class", "classes", classes), ("experience", "experiences", experiences), ("sample", "samples", samples))
    return {
        "request": request,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **who,
        "method": method,
        "policy": "exact" if exact else "approximate",
        **{name: {"count": len(ids), "keyed": keyed(key, kind, ids)} for kind, name, ids in scope},
        "accuracy": {"before": dict(before), "after": dict(after)},
        **more,
        "statement": STATEMENT,
    }


def keyed(key: bytes, kind: str, ids: Collection[object]) -> list[str]:
    """Return the sorted HMACs of ``ids``, half of each, which is plenty to tell them apart."""
    return sorted(digest(key, kind, i) for i in ids)


def requesters(run: Path, people: Mapping[str, Collection[int]]) -> list[dict[str, Any]]:
    """Return who asked for which samples, all as keyed hashes, for a request that serves several people.

    Args:
        run: The run directory, which holds the key.
        people: Person -> ids of the samples that went for that person.
    """
    key = run_key(run)
    told = [
        {
            "requester": digest(key, "requester", name),
            "samples": {"count": len(ids), "keyed": keyed(key, "sample", ids)},
        }
        for name, ids in people.items()
    ]
    return sorted(told, key=lambda one: str(one["requester"]))


def covering(run: Path, kind: str, names: Collection[object]) -> dict[object, int]:
    """Return the line of the receipt, counted from 1, that covers each of the ``names`` of a ``kind``, where one does.

    Args:
        run: The run directory.
        kind: ``class``, ``experience`` or ``sample``.
        names: Their ids or names.
    """
    key, field = run_key(run), {"class": "classes", "experience": "experiences", "sample": "samples"}[kind]
    told = [entry.get(field) or {"keyed": []} for entry in read(run)]
    found = {h: i for i, entry in enumerate(told, 1) for h in entry["keyed"]}
    return {name: found[h] for name in names if (h := digest(key, kind, name)) in found}


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(32)


def key_mark(key: bytes) -> str:
    """Return what tells a key from others without giving it away."""
    return sha256(b"key:" + key)


def write_key(run: Path, key: bytes) -> None:
    """Write a run's key, readable by the owner alone."""
    replace(run / KEY, f"{key.hex()}\n".encode())


def run_key(run: Path) -> bytes:
    """Return the run's random key.

    Raises:
        UserError: If it is missing or damaged.
    """
    path = run / KEY
    if problem := broken_key(run):
        raise UserError(f"{problem}; restore it from a copy.")
    if not path.exists():
        raise UserError(f"{path} is missing, and what hangs on it cannot be told; restore it from a copy.")
    return bytes.fromhex(path.read_text())


def broken_key(run: Path, mark: str | None = None) -> str | None:
    """Say what is wrong with the run's key; nothing where there is none, for deleting it is a way to forget.

    Args:
        run: The run directory.
        mark: The key's `key_mark`, as the manifest tells it.
    """
    path = run / KEY
    if not path.exists():
        return None
    raw = path.read_bytes()
    try:
        key = bytes.fromhex(raw.decode())
    except ValueError:
        return f"{path} is damaged"
    if raw != key.hex().encode() + b"\n" or (mark is not None and key_mark(key) != mark):
        return f"{path} is damaged or not this run's"
    return None


def last(run: Path) -> str:
    """Return the hash of the last line, which the next one will hold."""
    return [FIRST, *hashes(run)][-1]


def hashes(run: Path) -> list[str]:
    """Return the hash of each line, oldest first."""
    path = run / FILE
    return [sha256(line) for line in path.read_bytes().splitlines(keepends=True)] if path.exists() else []


def missing(run: Path, kept: str) -> list[str]:
    """Say whether a run lacks the line whose hash a person kept elsewhere: it is then an older copy, or another run.

    Raises:
        UserError: If ``kept`` is no hash of a line.
    """
    if not re.fullmatch("[0-9a-f]{64}", kept):
        raise UserError(f"--last takes the 64 hexadecimal digits that `clf forget` printed; found {kept!r}.")
    if kept in hashes(run):
        return []
    return [f"{run / FILE} has no line with the hash {kept}: this is an older copy of the run, or another run."]


def append(run: Path, entry: Mapping[str, Any]) -> None:
    """Add one receipt.

    Raises:
        UserError: If an earlier line was edited.
    """
    read(run)
    path = run / FILE
    old = path.read_bytes() if path.exists() else b""
    replace(path, old + seal({**entry, "previous": last(run)}, indent=None))


def body(entry: Mapping[str, Any], previous: str) -> bytes:
    """Return what a signature of ``entry`` signs: all of it but the signature, and the hash of the line before."""
    return encode({**{k: v for k, v in entry.items() if k != "signature"}, "previous": previous}, indent=None)


def read(run: Path) -> list[dict[str, Any]]:
    """Return every receipt, oldest first.

    Raises:
        UserError: If a line was edited.
    """
    if problems := check(run):
        raise UserError(f"{problems[0]}; restore the file from a copy.")
    return [{k: v for k, v in line.items() if k not in {"previous", "sha256"}} for line in lines(run)]


def lines(run: Path) -> list[dict[str, Any]]:
    """Return every line as it stands; its hash is not checked, the types of its fields are.

    Raises:
        UserError: If a line is not JSON, or a field has another type.
    """
    path = run / FILE
    raw = path.read_bytes().splitlines() if path.exists() else []
    return [_line(data, f"{path} line {number}") for number, data in enumerate(raw, 1)]


def _line(raw: bytes, place: str) -> dict[str, Any]:
    parsed(raw, Line, place)
    found: dict[str, Any] = decode(raw)
    return found


def check(run: Path) -> list[str]:
    """Return what is wrong with the file, line by line; nothing when it is whole or not there."""
    path = run / FILE
    if not path.exists():
        return []
    problems, previous = list[str](), FIRST
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        raw = line + b"\n"
        if fault := broken_seal(raw, indent=None):
            problems.append(f"{path} line {number} {fault}")
        elif decode(raw).get("previous") != previous:
            problems.append(f"{path} line {number} does not follow the line before it: one was removed or replaced")
        else:
            try:
                _line(raw, f"{path} line {number}")
            except UserError as error:
                problems.append(str(error).partition(";")[0])
        previous = sha256(raw)
    if path.read_bytes()[-1:] != b"\n":
        problems.append(f"{path} line {path.read_bytes().count(10) + 1} is cut short")
    return problems

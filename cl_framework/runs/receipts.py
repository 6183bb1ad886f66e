"""Receipts: a line for each forget request, with the hash of the line before, so that an edit or a gap shows.

A line is a DSSE envelope of canonical JSON; lines of earlier versions are plain JSON and are read and verified too.
A receipt names no class and no sample. It holds their keyed hashes (HMAC-SHA-256 under the run's own random ``key``
file): with the key one can check whether a given sample was covered; without it nobody can.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage import envelopes
from cl_framework.storage.envelopes import Signature
from cl_framework.storage.files import broken_seal, encode_json, replace, seal, sha256
from cl_framework.storage.typed_records import RESTORE, Count, decode_json, typed
from cl_framework.streams.identifiers import keyed_digest

FILE, KEY = "receipts.jsonl", "key"
FIRST = "0" * 64
STATEMENT = (
    "An integrity record of what this program did to this run directory. It is no legal proof of deletion, and says "
    "nothing about copies, exports or logs kept elsewhere."
)


TYPE = "application/vnd.cl-framework.receipt+json"
"""Payload type of a receipt's envelope."""


class Keyed(msgspec.Struct, frozen=True):
    """Number of items of a request, and the keyed hash of each."""

    count: Count = 0
    keyed: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True):
    """An unlearner's settings, and their hash."""

    values: dict[str, Any]
    sha256: str


class State(msgspec.Struct, frozen=True):
    """One hash over all tensors, before a request and after it."""

    before: str
    after: str


class Receipt(msgspec.Struct, frozen=True):
    """Fields of a receipt that are read again; a line holds more, as `docs/receipts.md` lists.

    ``signature``, in hexadecimal, is there only in signed lines of earlier versions.
    """

    event: str = ""
    request: str = ""
    method: str = ""
    settings: Settings | None = None
    classes: Keyed = Keyed()
    experiences: Keyed = Keyed()
    samples: Keyed = Keyed()
    state: State | None = None
    history: str | None = None
    artifacts: dict[str, tuple[str | None, str | None]] = msgspec.field(default_factory=dict)
    signature: str | None = None
    previous: str = ""


class Line(msgspec.Struct, frozen=True):
    """A line of the file.

    Attributes:
        content: Fields of the receipt, without the hash of the line before.
        receipt: The typed fields that are read again.
        signed: The bytes that its signatures sign.
        signatures: Empty where it is not signed; None for a plain line of an earlier version, which holds
            its signature in its content.
    """

    content: dict[str, Any]
    receipt: Receipt
    signed: bytes
    signatures: tuple[Signature, ...] | None


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
    """Return a draft of a receipt; the run adds the hashes of changed state when it commits the event.

    Args:
        run: The run directory, which holds the key.
        request: The request's name.
        classes: Ids of the forgotten classes.
        samples: Ids of the forgotten samples.
        method: The unlearner's name.
        exact: Whether the result equals never having learned them.
        before: Accuracies by name, such as ``forget`` and ``retain``, before the request.
        after: The same afterwards.
        experiences: Names of the experiences that lost samples.
        requester: The requester in any words; only the keyed hash is stored.
        more: Further fields, as `docs/receipts.md` lists them.
    """
    key = run_key(run)
    who = {} if requester is None else {"requester": keyed_digest(key, "requester", requester)}
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
    """Return the sorted HMACs of ``ids``, half of each, which suffices to tell them apart."""
    return sorted(keyed_digest(key, kind, i) for i in ids)


def requesters(run: Path, people: Mapping[str, Collection[int]]) -> list[dict[str, Any]]:
    """Return the samples of each requester as keyed hashes, for a request of several people.

    Args:
        run: The run directory, which holds the key.
        people: Person -> ids of the samples that went for that person.
    """
    key = run_key(run)
    records = [
        {
            "requester": keyed_digest(key, "requester", name),
            "samples": {"count": len(ids), "keyed": keyed(key, "sample", ids)},
        }
        for name, ids in people.items()
    ]
    return sorted(records, key=lambda one: str(one["requester"]))


def covering(run: Path, kind: str, names: Collection[object]) -> dict[object, int]:
    """Return the line of the receipt, counted from 1, that covers each of the ``names`` of a ``kind``, where one does.

    Args:
        run: The run directory.
        kind: ``class``, ``experience`` or ``sample``.
        names: Their ids or names.
    """
    key, field = run_key(run), {"class": "classes", "experience": "experiences", "sample": "samples"}[kind]
    keyed_of: list[Keyed] = [getattr(line.receipt, field) for line in whole(run)]
    line_of = {h: i for i, entry in enumerate(keyed_of, 1) for h in entry.keyed}
    return {name: line_of[h] for name in names if (h := keyed_digest(key, kind, name)) in line_of}


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(32)


def key_mark(key: bytes) -> str:
    """Return a fingerprint of a key that does not reveal it."""
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
    """Return the problem of the run's key; empty if there is none, since deleting it is a way to forget.

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


def missing_line(run: Path, kept: str) -> list[str]:
    """Return a problem if a run lacks the line of a hash kept elsewhere: it is then an older copy, or another run.

    Raises:
        UserError: If ``kept`` is no hash of a line.
    """
    if not re.fullmatch("[0-9a-f]{64}", kept):
        raise UserError(f"--last takes the 64 hexadecimal digits that `clf forget` printed; found {kept!r}.")
    if kept in hashes(run):
        return []
    return [f"{run / FILE} has no line with the hash {kept}: this is an older copy of the run, or another run."]


def append(run: Path, entry: Mapping[str, Any], signatures: Sequence[Signature] | None = ()) -> None:
    """Add one receipt.

    Args:
        run: The run directory.
        entry: Content of the receipt.
        signatures: Of `to_sign`. None writes a plain line as earlier versions did: a request that one of them
            carried out keeps the bytes that its signature and its printed hash speak of.

    Raises:
        UserError: If an earlier line was edited.
    """
    whole(run)
    path, previous = run / FILE, last(run)
    old = path.read_bytes() if path.exists() else b""
    if signatures is None:
        line = seal({**entry, "previous": previous}, indent=None)
    else:
        line = envelopes.pack_envelope(_content(entry, previous), TYPE, signatures)
    replace(path, old + line)


def to_sign(entry: Mapping[str, Any], previous: str) -> bytes:
    """Return the bytes that a signature of ``entry`` signs: all of it, and the hash of the line before."""
    return envelopes.pae(TYPE, _content(entry, previous))


def read_receipts(run: Path) -> list[dict[str, Any]]:
    """Return the content of every receipt, oldest first.

    Raises:
        UserError: If a line was edited.
    """
    return [line.content for line in whole(run)]


def whole(run: Path) -> list[Line]:
    """Return every line, oldest first.

    Raises:
        UserError: If a line was edited.
    """
    if problems := check_chain(run):
        raise UserError(f"{problems[0]}; restore the file from a copy.")
    path = run / FILE
    raw = path.read_bytes().splitlines() if path.exists() else []
    return [parse_line(data, f"{path} line {number}") for number, data in enumerate(raw, 1)]


def parse_line(raw: bytes, place: str) -> Line:
    """Return one line; its hash is not checked, the types of its fields are.

    Raises:
        UserError: If it is not JSON, or a field has another type.
    """
    try:
        record = decode_json(raw)
    except ValueError as error:
        raise UserError(f"{place} is damaged: it is not valid JSON ({error}); {RESTORE}.") from error
    if not isinstance(record, dict) or "payload" not in record:
        return _plain(record, place)
    content, envelope = envelopes.unpacked(record, TYPE, place)
    receipt = typed(content, Receipt, place)
    content.pop("previous", None)
    return Line(content, receipt, envelopes.pae(TYPE, envelope.body), envelope.signatures)


def check_chain(run: Path) -> list[str]:
    """Return the problems of the file, line by line; empty if it is intact or missing."""
    path = run / FILE
    if not path.exists():
        return []
    problems, previous = list[str](), FIRST
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        raw = line + b"\n"
        if problem := _problem(raw, previous, f"{path} line {number}"):
            problems.append(problem)
        previous = sha256(raw)
    if path.read_bytes()[-1:] != b"\n":
        problems.append(f"{path} line {path.read_bytes().count(10) + 1} is cut short")
    return problems


def _problem(raw: bytes, previous: str, place: str) -> str | None:
    if fault := broken_seal(raw, indent=None):
        return f"{place} {fault}"
    try:
        line = parse_line(raw, place)
    except UserError as error:
        return str(error).partition(";")[0]
    if line.receipt.previous != previous:
        return f"{place} does not follow the line before it: one was removed or replaced"
    return None


def _content(entry: Mapping[str, Any], previous: str) -> bytes:
    return envelopes.canonical({**entry, "previous": previous})


def _plain(record: Any, place: str) -> Line:
    """Return a line of an earlier version: plain JSON that holds its own hash, and its signature in hexadecimal."""
    receipt = typed(record, Receipt, place)
    content = {k: v for k, v in record.items() if k not in {"previous", "sha256"}}
    bare = {k: v for k, v in content.items() if k != "signature"}
    return Line(content, receipt, encode_json({**bare, "previous": receipt.previous}, indent=None), None)

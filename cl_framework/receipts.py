"""One line for each forget request, each holding the hash of the line before: an edit or a gap shows.

A receipt names no class and no sample. It holds their keyed hashes (HMAC-SHA-256 under the run's own random ``key``
file): whoever holds the key can ask whether a given sample was covered, and deleting the key makes that unanswerable.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cl_framework.errors import UserError
from cl_framework.naming import digest
from cl_framework.sealed import broken_seal, replace, seal, sha256, sibling, sync

FILE, KEY = "receipts.jsonl", "key"
FIRST = "0" * 64
STATEMENT = (
    "An integrity record of what this program did to this run directory. It is no legal proof of deletion, and says "
    "nothing about copies, exports or logs kept elsewhere."
)


def draft(
    run: Path,
    request: str,
    classes: Collection[int],
    samples: Collection[int],
    method: str,
    exact: bool,
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
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
    """
    key = run_key(run)
    return {
        "request": request,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "method": method,
        "policy": "exact" if exact else "approximate",
        "classes": {"count": len(classes), "keyed": keyed(key, "class", classes)},
        "samples": {"count": len(samples), "keyed": keyed(key, "sample", samples)},
        "accuracy": {"before": dict(before), "after": dict(after)},
        "statement": STATEMENT,
    }


def keyed(key: bytes, kind: str, ids: Collection[int]) -> list[str]:
    """Return the sorted HMACs of ``ids``, half of each, which is plenty to tell them apart."""
    return sorted(digest(key, kind, i) for i in ids)


def run_key(run: Path) -> bytes:
    """Return the run's random key; the first call makes it, readable by the owner alone."""
    path = run / KEY
    if not path.exists():
        handle = os.open(sibling(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sibling(path).replace(path)
        sync(run)
    try:
        return bytes.fromhex(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged; restore it from a copy, or delete it to have a new one made.") from error


def append(run: Path, entry: Mapping[str, Any]) -> None:
    """Add one receipt.

    Raises:
        UserError: If an earlier line was edited.
    """
    read(run)
    path = run / FILE
    old = path.read_bytes() if path.exists() else b""
    previous = sha256(old.splitlines(keepends=True)[-1]) if old else FIRST
    replace(path, old + seal({**entry, "previous": previous}, indent=None))


def read(run: Path) -> list[dict[str, Any]]:
    """Return every receipt, oldest first.

    Raises:
        UserError: If a line was edited.
    """
    if problems := check(run):
        raise UserError(f"{problems[0]}; restore the file from a copy.")
    path = run / FILE
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k not in {"previous", "sha256"}} for line in lines]


def check(run: Path) -> list[str]:
    """Return what is wrong with the file, line by line; nothing when it is whole or not there."""
    path = run / FILE
    if not path.exists():
        return []
    problems, previous = [], FIRST
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        raw = line + b"\n"
        if fault := broken_seal(raw, indent=None):
            problems.append(f"{path} line {number} {fault}")
        elif json.loads(line).get("previous") != previous:
            problems.append(f"{path} line {number} does not follow the line before it: one was removed or replaced")
        previous = sha256(raw)
    if path.read_bytes()[-1:] != b"\n":
        problems.append(f"{path} line {path.read_bytes().count(10) + 1} is cut short")
    return problems

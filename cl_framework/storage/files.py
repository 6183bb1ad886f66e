"""Files that survive a kill and show an edit: flushed to disk before use, checked by hash when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage.typed_records import FileEntry, decode_json, typed

_T = TypeVar("_T")

TEMPORARY = ".tmp-"  # prefix of temporary files only: a killed write leaves one behind
EDITED = "was edited or damaged: it no longer has the hash it was written with"


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def encode_json(record: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Return ``record`` as JSON that ends in a newline.

    Raises:
        ValueError: If a number is not finite (JSON has no NaN; say None).
    """
    return json.dumps(msgspec.to_builtins(record), indent=indent, allow_nan=False).encode() + b"\n"


def seal(record: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Encode ``record`` together with the hash of its own encoding, so that every later edit shows.

    >>> broken_seal(seal({"a": 1})), broken_seal(seal({"a": 1}).replace(b"1", b"2", 1))
    (None, 'was edited or damaged: it no longer has the hash it was written with')
    """
    return encode_json({**record, "sha256": sha256(encode_json(record, indent))}, indent)


def broken_seal(raw: bytes, indent: int | None = 1) -> str | None:
    """Say what is wrong with bytes that `seal` made; None when nothing is."""
    try:
        record = decode_json(raw)
    except ValueError:
        return "is not valid JSON"
    if not isinstance(record, dict):
        return "is not a JSON object"
    record.pop("sha256", None)
    return None if seal(record, indent) == raw else EDITED


def unseal(path: Path, kind: type[_T]) -> _T:
    """Read a sealed file as a record of ``kind``.

    Raises:
        UserError: If it is missing, unreadable, not exactly what was written, or has a field of another type.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore it from a copy.") from error
    if fault := broken_seal(raw):
        raise UserError(f"{path} {fault}; restore it from a copy.")
    record: dict[str, Any] = decode_json(raw)
    del record["sha256"]
    return typed(record, kind, path)


def entry(*parts: bytes | memoryview) -> FileEntry:
    """Return the entry of a file of these parts, by which `read_listed` checks it."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return FileEntry(sha.hexdigest(), sum(len(part) for part in parts))


def read_listed(path: Path, listed: FileEntry) -> bytes:
    """Read a file that `entry` described. A replacement that a kill left unrenamed counts as the file.

    Raises:
        UserError: If it is missing, truncated or edited.
    """
    for candidate in (path, sibling(path)):
        try:
            data = candidate.read_bytes()
        except OSError:
            continue
        if entry(data) == listed:
            return data
    raise _fault(path, listed)


def find_listed(path: Path, listed: FileEntry) -> Path:
    """Return where a file is that `entry` described, without having all of it in memory.

    Raises:
        UserError: As `read_listed` does.
    """
    for candidate in (path, sibling(path)):
        try:
            if candidate.stat().st_size == listed.bytes and file_hash(candidate) == listed.sha256:
                return candidate
        except OSError:
            continue
    raise _fault(path, listed)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def _fault(path: Path, listed: FileEntry) -> UserError:
    if not path.is_file():
        fault = "is missing"
    elif (size := path.stat().st_size) != listed.bytes:
        fault = f"has {size} bytes where {listed.bytes} were written"
    else:
        fault = EDITED
    return UserError(f"{path} {fault}; restore it from a copy.")


def sibling(path: Path) -> Path:
    """Return the temporary name beside ``path``."""
    return path.with_name(TEMPORARY + path.name)


def refuse_link(path: Path) -> None:
    """Refuse to touch what is a symbolic link, or lies in a folder that is one.

    Raises:
        UserError: If it is; both ends of the link are named.
    """
    for place in (path, path.parent):
        if place.is_symlink():
            problem = (
                f"{place} is a symbolic link to {os.readlink(place)}, and nothing is written or deleted through one"
            )
            raise UserError(f"{problem}; put the real file or folder there.")


def write(path: Path, *parts: bytes | memoryview, durable: bool = True) -> None:
    """Write a new file for its owner alone, flushed to disk.

    An existing file of that name is unlinked, not written to: it may have other names.

    Raises:
        UserError: If the path is a link.
    """
    remove(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, 0o600)  # whatever the umask
        file.writelines(parts)
        if durable:
            file.flush()
            os.fsync(handle)


def make(folder: Path) -> None:
    """Make a folder for its owner alone, unless it exists; parents get the system's default mode.

    Raises:
        UserError: If it is a link.
    """
    refuse_link(folder)
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)  # whatever the umask
        sync(folder.parent)


def rename(old: Path, new: Path) -> None:
    """Rename a file or folder durably.

    Raises:
        UserError: If a link is in the way.
    """
    refuse_link(old)
    refuse_link(new)
    old.replace(new)
    sync(new.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, if it is there.

    Raises:
        UserError: If it is a link.
    """
    refuse_link(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(path: Path, data: bytes) -> None:
    """Replace a file's content atomically."""
    write(sibling(path), data)
    rename(sibling(path), path)


def sync(folder: Path) -> None:
    """Flush the entries of ``folder``, so that names survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

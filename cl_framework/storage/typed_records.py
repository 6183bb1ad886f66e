"""Typed records on disk: a wrong field raises one sentence that names file and field.

A record is a frozen class with annotations (`msgspec.Struct` or a dataclass). JSON is decoded strictly: no NaN, no
number in the place of a text. Needs no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from cl_framework.errors import UserError

_T = TypeVar("_T")
RESTORE = "restore it from a copy"
Count = Annotated[int, msgspec.Meta(ge=0)]
"""A count, such as bytes or events."""
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""

_FAULT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?(?P<where>[^`]+)`)?$", re.DOTALL)


class FileEntry(msgspec.Struct, frozen=True):
    """The entry of a file: the hash of its content, and its size."""

    sha256: Digest
    bytes: Count


def decode_json(raw: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is not valid JSON, or nested too deep to read.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def parsed(raw: bytes, kind: type[_T], place: Path | str, remedy: str = RESTORE) -> _T:
    """Return JSON as a value of ``kind``.

    Args:
        raw: The bytes of the file.
        kind: The type of the record.
        place: The file, for the message.
        remedy: What to do about a wrong record.

    Raises:
        UserError: If it is not JSON, or a field is missing or of another type; file and field are named.
    """
    try:
        value = decode_json(raw)
    except ValueError as error:
        raise UserError(f"{place} is damaged: it is not valid JSON ({error}); {remedy}.") from error
    return typed(value, kind, place, remedy)


def typed(value: Any, kind: type[_T], place: Path | str, remedy: str = RESTORE) -> _T:
    """Return decoded JSON as a value of ``kind``; keys of its dictionaries may be numbers, spelled as text.

    >>> typed({"sha256": "a" * 64, "bytes": "7"}, FileEntry, "outputs.json")
    Traceback (most recent call last):
    cl_framework.errors.UserError: outputs.json is damaged at bytes: expected `int`, got `str`; restore it from a copy.

    Raises:
        UserError: As `parsed` does.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        match = _FAULT.match(str(error))
        fault, where = (match["what"], match["where"] or "$") if match else (str(error), "$")
        field = where.removeprefix("$").removeprefix(".") or "its top level"
        raise UserError(f"{place} is damaged at {field}: {fault[:1].lower()}{fault[1:]}; {remedy}.") from error

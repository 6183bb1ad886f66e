"""Request files: samples to forget, also of several requesters."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from cl_framework.errors import UserError

_HEAD = re.compile(r"requester\s*(?P<mark>[,;\t])\s*samples?", re.IGNORECASE)
"""Header of a file whose lines begin with the requester."""
IDS = re.compile(r"(?:id:)?\d+(?:[\s,;]+(?:id:)?\d+)*[\s,;]*")
KEYS = ("requester", "samples", "where")


@final
@dataclass(frozen=True, slots=True)
class RequestLine:
    """One line of a file of requests.

    Attributes:
        words: Ids, places, paths, names, folders or patterns of samples.
        where: Conditions ``COLUMN=VALUE`` that narrow them down, or stand alone.
        requester: The requester; empty if the line names none.
        place: File and line, for messages.
    """

    words: list[str]
    where: list[str] = field(default_factory=list)
    requester: str = ""
    place: str = ""


def read_requests(file: Path, lists: str) -> list[RequestLine]:
    """Read a file of requests.

    A line holds ids, or one path, name, folder or pattern, which may contain spaces; ``#`` begins a line of comment.
    The requester stands before a tab, or before the first comma in a file that begins with the line
    ``requester,sample``, where quotes may stand around either. Or a line is a JSON object such as ``{"requester":
    "alice", "samples": ["a.png", 17], "where": {"user": "alice"}}``.

    Args:
        file: The file.
        lists: The command that lists all samples, as the end of a message.

    Raises:
        UserError: If it is no such file, or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no sample that the run learned, and no text that names some; {lists}.") from error
    requests, mark = list[RequestLine](), ""
    for number, line in enumerate(lines, 1):
        text, place = line.strip(), f"{file}, line {number}"
        if not text or text.startswith("#"):
            continue
        if not requests and (head := _HEAD.fullmatch(text)):
            mark = head["mark"]
            continue
        requests.append(_record(text, place) if text.startswith("{") else _line(text, mark, place))
    if not requests:
        raise UserError(f"{file} names no sample; write ids or paths into it, one a line.")
    return requests


def _line(text: str, mark: str, place: str) -> RequestLine:
    who = ""
    if mark or not IDS.fullmatch(text):
        first, *rest = _cells(text, mark) if mark else text.split("\t", 1)
        if mark and not rest:
            raise UserError(f"{place}: {text!r} has no {mark!r}; write who asked, the mark, and the sample.")
        who, text = (first.strip(), mark.join(rest).strip()) if rest else ("", text)
    if not text:
        raise UserError(f"{place}: {who!r} names no sample; write it after the name.")
    return RequestLine(re.split(r"[\s,;]+", text.strip(" ,;\t")) if IDS.fullmatch(text) else [text], [], who, place)


def _cells(text: str, mark: str) -> list[str]:
    """Split a line at its marks, but not within quotes, which table programs put around what holds a mark.

    >>> _cells('bob, "said.csv, line 6"', ","), _cells("bob,said.csv, line 6", ",")
    (['bob', 'said.csv, line 6'], ['bob', 'said.csv', ' line 6'])
    """
    return next(csv.reader([re.sub(f'{mark}\\s+"', f'{mark}"', text)], delimiter=mark))


def _record(text: str, place: str) -> RequestLine:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is no valid JSON ({error}); fix it.") from error
    if strange := [k for k in record if k not in KEYS]:
        raise UserError(f"{place} has a key {strange[0]!r}; an object has {', '.join(map(repr, KEYS))}.")
    samples, where, who = record.get("samples", []), record.get("where", {}), record.get("requester", "")
    words = samples if isinstance(samples, list) else [samples]
    if not all(_plain(w) for w in words) or not _plain(who) or not isinstance(where, Mapping):
        raise UserError(f"{place}: samples are ids and paths, where is an object, and the requester a name; fix it.")
    if not (words or where):
        raise UserError(f"{place} names no sample; give 'samples' or 'where'.")
    return RequestLine([str(w) for w in words], [f"{k}={_text(v)}" for k, v in where.items()], str(who), place)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

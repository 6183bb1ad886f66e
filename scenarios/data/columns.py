"""Roles of a table's columns: named in an option, or guessed where one name fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from cl_framework.errors import UserError, did_you_mean

ColumnRole: TypeAlias = Literal["text", "image", "label", "split"]
NAMES: Mapping[ColumnRole, Sequence[str]] = {
    "text": ("text", "sentence", "utterance", "query", "question", "message", "content"),
    "image": ("path", "image", "image_path", "file", "file_name", "filename", "filepath"),
    "label": ("label", "category", "intent", "class", "class_name", "target"),
    "split": ("split", "subset"),
}
"""Names of each column, in any case; the first has priority."""
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
"""Names of splits, in cells or folders."""
_SEVERAL = re.compile(r"\s*[|;,/]\s*")
"""Separators of labels in a cell that holds several."""


def chosen(
    where: str, columns: Sequence[str], given: Mapping[ColumnRole, str], wanted: Sequence[ColumnRole]
) -> dict[ColumnRole, str]:
    """Return the column of each role that has one.

    Args:
        where: The table, for messages.
        columns: Their names.
        given: Names given as options, in place of guesses; empty if not given.
        wanted: The roles to look for.

    Raises:
        UserError: If a given name is missing, a name occurs twice, or several names fit a guess.
    """
    by_role: dict[ColumnRole, str] = {}
    for role in wanted:
        if name := given.get(role):
            if name not in columns:
                raise UserError(f"{where} has no column {name!r} to take as {role}. {did_you_mean(name, columns)}")
            fitting = [name]
        else:
            exact = [c for c in columns if c.strip().lower() == NAMES[role][0]]
            fitting = exact or [c for c in columns if c.strip().lower() in NAMES[role]]
        if any(list(columns).count(c) > 1 for c in fitting):
            raise UserError(f"{where} names the column {fitting[0]!r} twice; rename one of them.")
        if len(fitting) > 1:
            raise UserError(
                f"{where} has the columns {shown(fitting)}, which may all be the {role}; say which, as in "
                f":{role}={fitting[0]}."
            )
        by_role |= dict.fromkeys([role] if fitting else [], "".join(fitting))
    return by_role


def shown(columns: Iterable[str]) -> str:
    """Return column names for a message, ten at most."""
    names = list(columns)
    return (", ".join(map(ascii, names[:10])) + (", ..." if len(names) > 10 else "")) or "none"


def binary(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns that hold nothing but 0 and 1: labels of which a sample may have several.

    >>> binary(["id", "rude", "odd"], [{"id": "4", "rude": "1", "odd": "0"}, {"id": "5", "rude": "0", "odd": "0"}])
    ['rude', 'odd']
    """
    return [c for c in columns if rows and all((r.get(c) or "").strip() in ("0", "1") for r in rows)]


def several(label: str, known: frozenset[str]) -> bool:
    """Tell whether a label names several classes: a list, be it of one, or labels of other samples side by side.

    >>> several("[1, 4]", frozenset()), several("cat|dog", frozenset({"cat", "dog"})), several("a/c", frozenset({"a"}))
    (True, True, False)
    >>> several("['cat']", frozenset()), several("[unused]", frozenset())
    (True, False)
    """
    if label[:1] + label[-1:] in ("[]", "{}", "()") and ("," in label or label[1:2] in ("'", '"')):
        return True
    parts = _SEVERAL.split(label)
    return len(parts) > 1 and known.issuperset(parts)


def told_split(where: str, cell: str) -> str:
    """Return the split that a cell names: ``train``, ``test``, ``validation``, or nothing.

    Raises:
        UserError: If it names none.
    """
    split = SPLIT_NAMES.get(cell.strip().lower(), "") if cell.strip() else ""
    if cell.strip() and not split:
        raise UserError(f"{where}: split is {cell!r}; write train, validation or test.")
    return split

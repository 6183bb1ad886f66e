"""`json:FILE`: sentences and their labels, from one JSON value or from JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import torch

from cl_framework.errors import UserError
from cl_framework.settings import Loader
from scenarios.data import presence
from scenarios.data.columns import SPLIT_NAMES, ColumnRole, chosen, shown, told_split
from scenarios.data.faults import succeeds
from scenarios.data.source import Sentences, Source, check_share, in_order, stratified
from scenarios.pictures.decode import text as text_of

LOADER = Loader("json", reads="file", give="a JSON file", endings=(".json", ".jsonl", ".ndjson"))


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A labelled sentence.

    Attributes:
        where: File and place, for messages.
        text: The sentence.
        label: Name of its class.
        split: ``train``, ``validation``, ``test``, or nothing where the file does not say.
        columns: Further cells or keys that hold text or a number, by name.
    """

    where: str
    text: str
    label: str
    split: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            UserError: If text or label is missing or holds what is no character.
        """
        for name, value in (("text", self.text), ("label", self.label)):
            if not value.strip():
                raise UserError(f"{self.where}: the {name} is missing; fill it in or drop the line.")
            if odd := next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None):
                raise UserError(
                    f"{self.where}: the {name} holds \\u{ord(odd):04x}, which is no character; replace it, and save "
                    "the file as UTF-8."
                )


def load(
    path: str,
    test: float | None = None,
    seed: int = 0,
    also: str = "",
    exam: str = "",
    text: str = "",
    label: str = "",
    faults: list[str] | None = None,
) -> Source:
    """Read the file; class ids follow the sorted labels (sorted as numbers if all are).

    It holds a list of ``[text, label]`` or ``{"text": ..., "label": ..., "split": ...}``, or such records line by line
    (JSON Lines); or, as CLINC150 does, an object with such lists under ``train`` and ``test``. ``val`` (also ``valid``,
    ``validation``, ``dev``) is the test set where there is no ``test``, and left out otherwise, as other lists are.

    Args:
        path: A JSON file.
        test: Share of each class held out for testing, a fifth if None; only where the file has no test split.
        seed: Seed of that split.
        also: Take ``ALSO_train`` and ``ALSO_test`` in as well: ``oos`` are the out-of-scope sentences of CLINC150.
        exam: A second file of the same layout, used as the test set; the first is then the training set.
        text: Key of the sentence; found by itself if it is called text, sentence, utterance, query, ...
        label: Key of the label; found by itself if it is called label, category, intent, class, target.
        faults: Collects the faults of single records, which are left out.

    Raises:
        UserError: If a file is missing or laid out in another way, a sample has several labels, or an option would
            change nothing.
    """
    given: dict[ColumnRole, str] = {"text": text, "label": label}
    faults = [] if faults is None else faults
    rows = records(path, also, given, faults)
    if exam:
        rows = join_records(rows, records(exam, also, given, faults))
    return source_from(f"json:{path}", rows, test, seed)


def records(path: str, also: str, given: Mapping[ColumnRole, str], faults: list[str]) -> list[Record]:
    """Return the records of a JSON file."""
    content = read_json(path, lines=True)
    if not isinstance(content, dict):
        if also:
            raise UserError(f"{path} is one list and has no list '{also}_train'; leave out the option also={also}.")
        return _listed(path, content, "", given, faults)
    if "train" not in content:
        raise UserError(f"{path} has no list 'train', only {_keys(content)}; name it so, or write one list of records.")
    if content.get("test") == []:
        raise UserError(f"{path}: 'test' is empty; add sentences, or leave it out to hold out a share of 'train'.")
    second = next((k for k in ("test", *SPLIT_NAMES) if k in content and k != "train"), "test")
    rows = []
    for split, name in (("train", "train"), ("test", second)):
        for part in (name, *([f"{also}_{name}"] if also else [])):
            if also and part != name and part not in content:
                raise UserError(f"{path} has no list {part!r}; leave out the option also={also}.")
            rows += _listed(f"{path}, {part}", content.get(part, []), split, given, faults)
    return rows


def _listed(
    where: str, content: object, split: str, given: Mapping[ColumnRole, str], faults: list[str]
) -> list[Record]:
    if not isinstance(content, list):
        raise UserError(
            f"{where}: found {type(content).__name__}; write a list of [text, label], or of objects with the keys "
            "'text' and 'label'."
        )
    rows: list[Record] = []
    for i, each in enumerate(content, 1):
        here = f"{where}, record {i}"
        succeeds(faults, lambda here=here, each=each: rows.append(_record(here, each, split, given)))  # type: ignore[misc]
    return rows


def _record(here: str, each: object, split: str, given: Mapping[ColumnRole, str]) -> Record:
    """Return one record.

    Raises:
        UserError: If it is laid out in another way.
    """
    if isinstance(each, dict):
        at = chosen(here, list(each), given, ["text", "label"])
        if len(at) < 2:
            raise UserError(
                f"{here}: found the keys {_keys(each)}; a record needs 'text' and 'label': rename them, or say which "
                "they are, as in :text=utterance,label=category."
            )
        text, label, own = each[at["text"]], each[at["label"]], each.get("split", split)
        more = {k: str(v) for k, v in each.items() if k not in {*at.values(), "split"} and isinstance(v, str | int)}
    elif isinstance(each, list) and len(each) == 2:
        text, label, own, more = *each, split, {}
    else:
        raise UserError(f'{here}: found {str(each)[:40]!r}; write [text, label] or {{"text": ..., "label": ...}}.')
    if isinstance(label, list):
        raise UserError(f"{here}: the label {str(label)[:40]} names several classes or is a list; write one name.")
    if not isinstance(text, str) or not isinstance(label, str | int):
        raise UserError(f"{here}: text and label must be strings; found {str(each)[:40]!r}.")
    return Record(here, text, str(label), split or told_split(here, str(own)), more)


def _keys(record: Mapping[str, object]) -> str:
    return shown(sorted(record))


def read_json(path: str, lines: bool = False) -> object:
    """Return what a JSON file holds.

    Args:
        path: The file.
        lines: Whether it may hold a value on every line (JSON Lines); then a list of them is returned.

    Raises:
        UserError: If it is missing, not UTF-8 or no JSON.
    """
    file = Path(path).expanduser()
    presence.check_present(LOADER, path)
    content = text_of(file)
    if lines and file.suffix in (".jsonl", ".ndjson"):
        return _by_line(path, content)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        if lines and _is_json(content.lstrip().partition("\n")[0]):
            return _by_line(path, content)
        other = presence.spelled(path)
        mend = f"for a table, write {other}" if other and not other.startswith("json:") else "fix it"
        raise UserError(f"{path} is not valid JSON ({error}); {mend}.") from error


def _by_line(path: str, content: str) -> list[object]:
    values = []
    for i, line in enumerate(content.split("\n"), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {i} is not valid JSON ({error}); write one list, or a record on each line."
            ) from error
    return values


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def join_records(learned: Sequence[Record], exam: Sequence[Record]) -> list[Record]:
    """Return the records of two files, the second as the test set."""
    whole = {"train": learned, "test": exam}
    return [replace(r, split=split) for split, part in whole.items() for r in part]


def examined(name: str, rows: Sequence[Record]) -> tuple[bool, list[Record]]:
    """Return whether records have a test split, and the records: validation is test where there is no test.

    Raises:
        UserError: If there are none, or only some say where they belong.
    """
    if not rows:
        raise UserError(f"{name} holds no samples; add some.")
    names = {r.split for r in rows}
    if names > {""} and (silent := next((r for r in rows if not r.split), None)):
        raise UserError(f"{silent.where}: it has no split, which others have; write train or test.")
    if "test" in names:
        return True, [r for r in rows if r.split != "validation"]
    if "validation" not in names:
        return False, list(rows)
    return True, [replace(r, split="test") if r.split == "validation" else r for r in rows]


def source_from(name: str, rows: Sequence[Record], test: float | None, seed: int) -> Source:
    """Sort records into a source, splitting them here if they do not say how.

    Raises:
        UserError: If there are none, only some name a split, a class has test samples only, or a share is to be held
            out of records with a test split.
    """
    has_test, rows = examined(name, rows)
    check_share(name, has_test, test)
    labels = {r.label for r in rows if r.split != "test"}
    names = in_order(labels)
    if unknown := next((r for r in rows if r.label not in labels), None):
        raise UserError(f"{unknown.where}: class {unknown.label!r} has no training sentences; add some or drop it.")
    place = {c: i for i, c in enumerate(names)}

    def part(split: str, chosen: Sequence[Record]) -> Sentences:
        columns = [r.columns for r in chosen] if any(r.columns for r in chosen) else ()
        texts, labels = [r.text for r in chosen], [place[r.label] for r in chosen]
        return Sentences(split, texts, labels, None, [r.where for r in chosen], columns)

    if has_test:
        learned, exam = ([r for r in rows if r.split == split] for split in ("train", "test"))
    else:
        every = torch.tensor([place[r.label] for r in rows])
        parts = stratified(every, test, seed)
        learned, exam = ([rows[i] for i in at.tolist()] for at in parts)
    return Source(name, part("train", learned), part("test", exam), tuple(names), has_test)

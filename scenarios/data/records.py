"""`json:FILE`: sentences and their labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from cl_framework.errors import UserError
from scenarios.data.source import Sentences, Source, in_order, stratified


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A sentence and what is said of it.

    Attributes:
        where: File and place, for messages.
        text: The sentence.
        label: What its class is called.
        split: ``train``, ``test``, or nothing where the file does not say.
    """

    where: str
    text: str
    label: str
    split: str = ""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            UserError: If text or label is missing, or the split is an odd one.
        """
        for what, found in (("text", self.text), ("label", self.label)):
            if not found.strip() or "\0" in found:
                raise UserError(f"{self.where}: the {what} is missing; fill it in or drop the line.")
        if self.split not in ("", "train", "test"):
            raise UserError(f"{self.where}: split is {self.split!r}; write train or test.")


def load(path: str, test: float = 0.2, seed: int = 0, also: str = "", exam: str = "") -> Source:
    """Read the file; class ids follow the sorted labels (sorted as numbers if all are).

    It holds a list of ``[text, label]`` or ``{"text": ..., "label": ..., "split": ...}``; or, as CLINC150 does, an
    object with such lists under ``train`` and ``test``. Its other lists, ``val`` say, are left out.

    Args:
        path: A JSON file.
        test: Share of each class held out for testing where the file has no test split.
        seed: Seed of that split.
        also: Take ``ALSO_train`` and ``ALSO_test`` in as well: ``oos`` are the out-of-scope sentences of CLINC150.
        exam: A second file of the same layout, all of it to be examined on; the first is then all learned from.

    Raises:
        UserError: If a file is missing or laid out in another way, or a record lacks its text or label.
    """
    found = list(records(path, also))
    if exam:
        found = joined(found, list(records(exam, also)))
    return source(f"json:{path}", found, test, seed)


def records(path: str, also: str = "") -> Iterator[Record]:
    """Yield the records of a JSON file."""
    content = read_json(path)
    if not isinstance(content, dict):
        yield from _listed(path, content, "")
        return
    for split in ("train", "test"):
        if split == "train" and split not in content:
            raise UserError(f"{path} has no list {split!r}, only {', '.join(map(repr, content))}; name it so.")
        for part in (split, *([f"{also}_{split}"] if also else [])):
            if also and part != split and part not in content:
                raise UserError(f"{path} has no list {part!r}; leave out the option also={also}.")
            yield from _listed(f"{path}, {part}", content.get(part, []), split)


def _listed(where: str, content: object, split: str) -> Iterator[Record]:
    if not isinstance(content, list):
        raise UserError(f"{where}: found {type(content).__name__}; write a list of [text, label].")
    for i, each in enumerate(content, 1):
        here = f"{where}, record {i}"
        if isinstance(each, dict):
            text, label, own = each.get("text", ""), each.get("label", ""), each.get("split", split)
        elif isinstance(each, list) and len(each) == 2:
            text, label, own = *each, split
        else:
            raise UserError(f'{here}: found {str(each)[:40]!r}; write [text, label] or {{"text": ..., "label": ...}}.')
        if not isinstance(text, str) or not isinstance(label, str | int):
            raise UserError(f"{here}: text and label must be strings; found {str(each)[:40]!r}.")
        yield Record(here, text, str(label), split or str(own))


def read_json(path: str) -> object:
    """Return what a JSON file holds.

    Raises:
        UserError: If it is missing or no JSON.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path}; give a JSON file.")
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); mend it.") from error


def joined(learned: Sequence[Record], exam: Sequence[Record]) -> list[Record]:
    """Return the records of two files, the second to be examined on."""
    whole = {"train": learned, "test": exam}
    return [Record(r.where, r.text, r.label, split) for split, part in whole.items() for r in part]


def source(name: str, found: Sequence[Record], test: float, seed: int) -> Source:
    """Sort records into a source, splitting them here if they do not say how.

    Raises:
        UserError: If there are none, only some say where they belong, or a class is only to be examined on.
    """
    if not found:
        raise UserError(f"{name} holds no sentences; add some.")
    said = any(r.split for r in found)
    if said and (silent := next((r for r in found if not r.split), None)):
        raise UserError(f"{silent.where}: it has no split, which others have; write train or test.")
    if said and all(r.split == "train" for r in found):
        said = False
    labels = {r.label for r in found if r.split != "test"}
    names = in_order(labels)
    if unknown := next((r for r in found if r.label not in labels), None):
        raise UserError(f"{unknown.where}: class {unknown.label!r} has no training sentences; add some or drop it.")
    place = {c: i for i, c in enumerate(names)}

    def part(split: str, chosen: Sequence[Record]) -> Sentences:
        return Sentences(split, [r.text for r in chosen], [place[r.label] for r in chosen])

    if said:
        learned, exam = ([r for r in found if r.split == split] for split in ("train", "test"))
    else:
        every = torch.tensor([place[r.label] for r in found])
        learned, exam = ([found[i] for i in at.tolist()] for at in stratified(every, test, seed, names, "sentence"))
    return Source(name, part("train", learned), part("test", exam), tuple(names))

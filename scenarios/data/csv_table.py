"""`csv:FILE`: a table of images (columns path, label) or sentences (text, label), and split if you like."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from cl_framework.errors import UserError
from cl_framework.settings import Loader
from scenarios.data import presence, text_records
from scenarios.data.columns import NAMES, ColumnRole, binary, chosen, several, shown, told_split
from scenarios.data.faults import succeeds
from scenarios.data.source import Pictures, Source, check_share, in_order, stratified
from scenarios.data.text_records import Record, examined
from scenarios.pictures import decode

LOADER = Loader(
    "csv",
    reads="file",
    give="a CSV with columns path,label[,split] or text,label[,split]",
    endings=(".csv", ".tsv"),
)
SEPARATORS = (",", ";", "\t", "|")
"""Separators of columns; the most frequent one in line 1 is used."""
ASK = "line 1 must name path,label[,split] or text,label[,split]; other names go as in :text=utterance,label=category"


def load(
    path: str,
    test: float | None = None,
    seed: int = 0,
    exam: str = "",
    text: str = "",
    image: str = "",
    label: str = "",
    split: str = "",
    faults: list[str] | None = None,
) -> Source:
    """Read the table; class ids follow the sorted labels (sorted as numbers if all are).

    Args:
        path: A file of columns between commas, semicolons, tabs or bars, whose first line names them; image paths
            resolve beside it; split is train, validation or test. Validation is the test set where there is no test
            split, and left out otherwise.
        test: Share of each class held out for testing, a fifth if None; only where there is no split column.
        seed: Seed of that split.
        exam: A second table of sentences, used as the test set; the first is then the training set.
        text: Column of sentences; found by itself if it is called text, sentence, utterance, query, ...
        image: Column of image paths; found by itself if it is called path, image, file, filename, ...
        label: Column of labels; found by itself if it is called label, category, intent, class, target.
        split: Column of splits; found by itself if it is called split or subset.
        faults: Collects the faults of single lines, which are left out.

    Raises:
        UserError: If the table or a column is missing, it is no table of UTF-8, a sample has several labels, or an
            option would change nothing.
    """
    file, name = Path(path).expanduser(), f"csv:{path}"
    faults = [] if faults is None else faults
    given: dict[ColumnRole, str] = {"text": text, "image": image, "label": label, "split": split}
    kind, records = _read_table(path, given, faults)
    if kind == "text":
        more = _read_table(exam, given, faults)[1] if exam else []
        whole = text_records.join_records(records, more) if exam else records
        return text_records.source_from(name, whole, test, seed)
    if exam:
        raise UserError(f"csv:exam is for tables of sentences, and {path} has no column 'text'; use a split column.")
    at = {r.where: _beside(file, r.text) for r in records}
    records = [r for r in records if succeeds(faults, lambda r=r: _check(r.where, at[r.where]))]  # type: ignore[misc]
    said_split, records = examined(name, records)
    check_share(name, said_split, test)
    labels = {r.label for r in records if r.split != "test"}
    names = in_order(labels)
    if unknown := next((r for r in records if r.label not in labels), None):
        raise UserError(f"{unknown.where}: class {unknown.label!r} has no training images; add some or drop the line.")
    place = {c: i for i, c in enumerate(names)}

    def part(name: str, some: Sequence[Record]) -> Pictures:
        columns = [r.columns for r in some] if any(r.columns for r in some) else ()
        return Pictures(name, [at[r.where] for r in some], [place[r.label] for r in some], columns=columns)

    if said_split:
        train, held = ([r for r in records if r.split == s] for s in ("train", "test"))
    else:
        parts = stratified(torch.tensor([place[r.label] for r in records]), test, seed)
        train, held = ([records[i] for i in at.tolist()] for at in parts)
    return Source(name, part("train", train), part("test", held), tuple(names), said_split)


def _read_table(path: str, given: dict[ColumnRole, str], faults: list[str]) -> tuple[ColumnRole, list[Record]]:
    """Read a table: whether it is of sentences or images, and its lines; the text of an image is its path.

    Raises:
        UserError: If it is missing, not UTF-8 or lacks a column, a quote is not closed, or a sample has several labels.
    """
    file = Path(path).expanduser()
    presence.check_present(LOADER, path)
    content = decode.text(file)
    if not content.strip():
        raise UserError(f"{path} is empty; {ASK}.")
    first = content.partition("\n")[0].rstrip("\r")
    mark = first[4:] if first[:4] == "sep=" and len(first) == 5 else ""  # as spreadsheets write it
    head = content.split("\n", 2)[1] if mark and "\n" in content else first
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=mark or separator(head), strict=True)
    lines: list[tuple[str, list[str]]] = []
    last = 0
    try:
        if mark:
            next(reader)
        columns = [c.strip() for c in next(reader, [])]
        last = reader.line_num
        for cells in reader:
            if any(cells[len(columns) :]):
                faults.append(
                    f"{path}, line {reader.line_num}: {len(cells) - len(columns)} more than the {len(columns)} columns "
                    "of line 1; put text that holds a comma in double quotes."
                )
            elif cells:
                lines.append((f"{path}, line {reader.line_num}", cells + [""] * (len(columns) - len(cells))))
            last = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}, from line {last + 1}: no valid CSV ({error}); close the quotes that were opened, and write a "
            "double quote within them twice."
        ) from error
    return _records(path, columns, lines, given, faults)


def separator(head: str) -> str:
    r"""Return the separator of columns, from the header line.

    >>> separator("text;label"), separator("a\tb, c\td"), separator("text")
    (';', '\t', ',')
    """
    return max(SEPARATORS, key=lambda c: (head.count(c), -SEPARATORS.index(c)))


def _records(
    path: str, columns: list[str], lines: list[tuple[str, list[str]]], given: dict[ColumnRole, str], faults: list[str]
) -> tuple[ColumnRole, list[Record]]:
    """Return whether lines are of sentences or images, and a record of each complete line."""
    sought: list[ColumnRole] = ["text", "image"]
    at = chosen(path, columns, given, [r for r in sought if given[r]] or sought)
    kind: ColumnRole | None = next(
        (r for r in ("text", "image") if r in at and at[r].lower() == NAMES[r][0]), None
    ) or next(iter(at), None)
    at |= chosen(path, columns, given, ["label", "split"])
    if kind is None or "label" not in at:
        lacking = "'label'" if kind else "'path' or 'text'"
        rows = [dict(zip(columns, cells, strict=False)) for _, cells in lines]
        many = binary(columns, rows)
        why = f"; {shown(many)} hold only 0 and 1: samples with several labels are not supported" if many[1:] else ""
        raise UserError(f"{path} has no column {lacking}, only {shown(columns)}{why}; {ASK}.")
    cells_of = {role: columns.index(name) for role, name in at.items()}
    known = frozenset(cells[cells_of["label"]].strip() for _, cells in lines)
    records_found: list[Record] = []
    for where, cells in lines:
        text, label, split = (cells[cells_of[r]].strip() if r in cells_of else "" for r in (kind, "label", "split"))
        if several(label, known):
            raise UserError(f"{where}: the label {label!r} names several classes or is a list; write one name.")

        more = {c: cell.strip() for c, cell in zip(columns, cells, strict=False) if c not in at.values()}

        def note(
            where: str = where, text: str = text, label: str = label, split: str = split, more: dict[str, str] = more
        ) -> None:
            label = "" if label.lower() == "nan" else label
            records_found.append(Record(where, text, label, told_split(where, split), more))

        succeeds(faults, note)
    return kind, records_found


def _beside(table: Path, image: str) -> Path:
    """Return where an image is whose path a table names; Windows writes backslashes between folders."""
    path = table.parent / image
    return path if "\\" not in image or path.exists() else table.parent / image.replace("\\", "/")


def _check(where: str, image: Path) -> None:
    """Require that an image exists.

    Raises:
        UserError: If it is not.
    """
    if not image.is_file():
        raise UserError(f"{where}: the image {image} does not exist; correct the path or drop the line.")

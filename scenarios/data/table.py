"""`csv:FILE`: a table of images (columns path, label) or sentences (text, label), and split if you like."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from cl_framework.errors import UserError
from scenarios.data import decode, records
from scenarios.data.records import Record
from scenarios.data.source import Pictures, Source, check_share, in_order, stratified


def load(path: str, test: float | None = None, seed: int = 0, exam: str = "") -> Source:
    """Read the table; class ids follow the sorted labels (sorted as numbers if all are).

    Args:
        path: A CSV file whose first line names the columns; image paths resolve beside it; split is train or test.
        test: Share of each class held out for testing, a fifth if None; only where there is no split column.
        seed: Seed of that split.
        exam: A second table of sentences, all of it to be examined on; the first is then all learned from.

    Raises:
        UserError: If the table, a column or an image is missing, it is no table of UTF-8, a line has no label or an odd
            split, or an option would change nothing.
    """
    file, name = Path(path).expanduser(), f"csv:{path}"
    columns, rows = lines(path)
    if "text" in columns:
        found = sentences(path, rows)
        found = records.joined(found, sentences(exam, lines(exam)[1])) if exam else found
        return records.source(name, found, test, seed)
    check_share(name, "split" in columns, test)
    if exam:
        raise UserError(f"csv:exam is for tables of sentences, and {path} has no column 'text'; use a split column.")
    for row in rows:
        check(path, file.parent / row["path"], row)
    labels = {row["label"] for row in rows if row.get("split", "train") == "train"}
    names = in_order(labels)
    if unknown := next((r for r in rows if r["label"] not in labels), None):
        where = f"{path}, line {unknown['line']}"
        raise UserError(f"{where}: class {unknown['label']!r} has no training images; add some or drop the line.")
    place = {c: i for i, c in enumerate(names)}

    def part(split: str, chosen: list[dict[str, str]]) -> Pictures:
        return Pictures(split, [file.parent / r["path"] for r in chosen], [place[r["label"]] for r in chosen])

    if "split" in columns:
        train, held = ([r for r in rows if r["split"] == s] for s in ("train", "test"))
    else:
        parts = stratified(part("", rows).labels, test, seed)
        train, held = ([rows[i] for i in at.tolist()] for at in parts)
    return Source(name, part("train", train), part("test", held), tuple(names))


def lines(path: str) -> tuple[set[str], list[dict[str, str]]]:
    """Read a table: its columns, and of each line those that matter, with its number.

    Raises:
        UserError: If it is missing, not UTF-8 or lacks a column, or a quote is not closed or a comma not quoted.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path}; give a CSV with columns path,label[,split] or text,label[,split].")
    reader = csv.DictReader(io.StringIO(decode.text(file), newline=""), restval="", strict=True)
    found, last = [], 0
    try:
        columns = set(reader.fieldnames or ())
        if missing := {"text" if "text" in columns else "path", "label"} - columns:
            raise UserError(
                f"{path} has no column {sorted(missing)[0]!r}; line 1 must name path,label[,split] or "
                "text,label[,split]."
            )
        wanted = [k for k in ("path", "text", "label", "split") if k in columns]
        last = reader.line_num
        for row in reader:
            if any(more := row.pop(None, [])):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(more)} more than the {len(row)} columns of line 1; put text "
                    "that holds a comma in double quotes."
                )
            found.append({"line": str(reader.line_num)} | {k: row[k].strip() for k in wanted})
            last = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}, from line {last + 1}: no valid CSV ({error}); close the quotes that were opened, and write a "
            "double quote within them twice."
        ) from error
    return columns, found


def sentences(path: str, rows: list[dict[str, str]]) -> list[Record]:
    """Return the lines of a table of sentences as records."""
    return [Record(f"{path}, line {r['line']}", r["text"], r["label"], r.get("split", "")) for r in rows]


def check(path: str, image: Path, row: dict[str, str]) -> None:
    """Check one line of the table.

    Raises:
        UserError: If it has no label, an odd split, or its image does not exist.
    """
    where = f"{path}, line {row['line']}"
    if row["label"].lower() in ("", "nan"):
        raise UserError(f"{where}: the label is missing; fill it in or drop the line.")
    if row.get("split", "train") not in ("train", "test"):
        raise UserError(f"{where}: split is {row['split']!r}; write train or test.")
    if not image.is_file():
        raise UserError(f"{where}: the image {image} does not exist; mend the path or drop the line.")

"""`csv:FILE`: a table of images with columns path, label and, if you like, split."""

from __future__ import annotations

import csv
from pathlib import Path

from cl_framework.errors import UserError
from scenarios.data.source import Pictures, Source, stratified


def load(path: str, test: float = 0.2, seed: int = 0) -> Source:
    """Read the table; class ids follow the sorted labels (sorted as numbers if all are).

    Args:
        path: A CSV file whose first line names the columns; image paths resolve beside it; split is train or test.
        test: Share of each class held out for testing where there is no split column.
        seed: Seed of that split.

    Raises:
        UserError: If the table or an image is missing, a column is missing, or a line has no label or an odd split.
    """
    file, name = Path(path).expanduser(), f"csv:{path}"
    if not file.is_file():
        raise UserError(f"There is no file {path}; give a CSV with columns path,label[,split].")
    with file.open(newline="", encoding="utf-8-sig") as f:
        reader = csv.DictReader(f, restval="")
        columns = set(reader.fieldnames or ())
        if missing := {"path", "label"} - columns:
            raise UserError(f"{path} has no column {sorted(missing)[0]!r}; line 1 must name path,label[,split].")
        wanted = [k for k in ("path", "label", "split") if k in columns]
        rows = [{"line": str(reader.line_num)} | {k: r[k].strip() for k in wanted} for r in reader]
    for row in rows:
        check(path, file.parent / row["path"], row)
    labels = {row["label"] for row in rows if row.get("split", "train") == "train"}
    names = sorted(labels, key=int) if all(c.isdecimal() for c in labels) else sorted(labels)
    if unknown := next((r for r in rows if r["label"] not in labels), None):
        where = f"{path}, line {unknown['line']}"
        raise UserError(f"{where}: class {unknown['label']!r} has no training images; add some or drop the line.")
    place = {c: i for i, c in enumerate(names)}

    def part(split: str, chosen: list[dict[str, str]]) -> Pictures:
        return Pictures(split, [file.parent / r["path"] for r in chosen], [place[r["label"]] for r in chosen])

    if "split" in columns:
        train, held = ([r for r in rows if r["split"] == s] for s in ("train", "test"))
    else:
        train, held = ([rows[i] for i in at.tolist()] for at in stratified(part("", rows).labels, test, seed, names))
    return Source(name, part("train", train), part("test", held), tuple(names))


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

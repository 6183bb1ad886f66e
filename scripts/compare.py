"""Compare methods: every method with every seed on one stream, as a table.

    python scripts/compare.py configs/compare/glyphs.yaml               # writes docs/tables/glyphs.md and .json
    python scripts/compare.py configs/compare/glyphs.yaml --validation --only EASE --model.adapter.width 32
    python scripts/compare.py configs/compare/glyphs.yaml --only RanPAC --update      # makes rows of the table again
    python scripts/compare.py --readme                                  # copies tables into README.md and docs/*.md

Each cell is a run below ``runs/compare``, filed under its method, its seed, and a hash of its settings, backbone and
data: a finished one is not repeated, a stopped one is resumed, a changed one is made anew. Nothing else is looked at:
remove ``runs/compare`` after changing code. Settings are chosen with ``--validation``, which examines on held-out
training pictures, takes overrides as `clf run` does, and never writes a table into the docs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.errors import UserError, did_you_mean
from scripts.cells import CONSOLE, ROOT, Cell, device, guarded, settle
from scripts.tables import COLUMNS, FORGETTING, MARKED, Columns, filled, markdown, summary, write


@final
@dataclass(frozen=True, slots=True)
class Matrix:
    """A comparison, as its YAML file describes it.

    Attributes:
        title: What is compared on what.
        seeds: Each decides training and the order of classes.
        validation: Share of the training pictures that ``--validation`` holds out.
        shared: Sections of a config that all methods share.
        methods: What each method changes in them.
        forgets: Whether the stream forgets, so that other numbers are compared and every cell is audited.
        retrained: The method that learns everything again at each request, with which those of the same strategy are
            compared; for others the audit trains a model of its own.
    """

    title: str
    seeds: Sequence[int]
    validation: float
    shared: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    forgets: bool = False
    retrained: str | None = None

    @property
    def columns(self) -> Columns:
        """What is compared."""
        return FORGETTING if self.forgets else COLUMNS

    def references(self, cell: Cell, every: Iterable[Cell], unasked: Iterable[Cell]) -> tuple[Cell, Cell] | None:
        """Return the cells of the same seed and strategy that learned everything again, and that forgot nothing."""
        if self.retrained is None or self._strategy(cell[0]) != self._strategy(self.retrained):
            return None
        again, never = (next(c for c in some if c[:2] == (self.retrained, cell[1])) for some in (every, unasked))
        return again, (f"{never[0]}, unasked", *never[1:])

    def unasked(self) -> Matrix:
        """Return the same comparison without forget requests."""
        stream = self.shared["data"]["scenario"]["init_args"]["stream"]
        shared = {**self.shared, "data": {**self.shared["data"], "scenario": stream}}
        return replace(self, shared=shared, forgets=False)

    def _strategy(self, method: str) -> Any:
        return self.methods[method]["model"]["strategy"]

    def cells(self, data: str | None, validation: bool, overrides: Sequence[str] = ()) -> Iterator[Cell]:
        """Yield every cell, seed by seed.

        Raises:
            UserError: If neither the file nor ``data`` names the data.
        """
        stream = self.shared["data"]["scenario"]
        stream = stream["init_args"]["stream"] if self.forgets else stream
        if not data and "dataset" not in stream["init_args"]:
            raise UserError(f"{self.title!r} names no data set; add `--data imagefolder:PATH` or `--data json:FILE`.")
        scenario = "--data.scenario.init_args" + (".stream.init_args" if self.forgets else "")
        for seed in self.seeds:
            for method, own in self.methods.items():
                yield (
                    method,
                    seed,
                    [
                        "--config",
                        json.dumps(self.shared),
                        "--config",
                        json.dumps(own),
                        *overrides,
                        "--seed_everything",
                        str(seed),
                        f"{scenario}.order_seed",
                        str(seed),
                        *([f"{scenario}.dataset", data] if data else []),
                        *([f"{scenario}.validation", str(self.validation)] if validation else []),
                    ],
                )


def read(path: Path) -> Matrix:
    """Read a comparison.

    Raises:
        UserError: If the file cannot be read or has other keys than a `Matrix`.
    """
    try:
        return Matrix(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} describes no comparison ({error}); configs/compare/glyphs.yaml shows how.") from error


def compare(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Settle every cell, print the table, and write it if it is the one that the file describes.

    Raises:
        UserError: If a method is unknown, or settings are overridden without ``--validation``.
    """
    matrix, name = read(args.matrix), args.matrix.stem + ("-validation" if args.validation else "")
    if unknown := [m for m in args.only if m not in matrix.methods]:
        raise UserError(f"{args.matrix} has no method {unknown[0]!r}. {did_you_mean(unknown[0], matrix.methods)}")
    if overrides and not args.validation:
        raise UserError(f"{overrides[0]} is not in {args.matrix}; write it there, or try it out with --validation.")
    runs = args.runs / name
    every = list(matrix.cells(args.data, args.validation, overrides))
    unasked = list(matrix.unasked().cells(args.data, args.validation)) if matrix.retrained else []
    wanted = [c for c in every if c[0] in (args.only or matrix.methods)]
    cells = []
    for i, cell in enumerate(wanted, 1):
        CONSOLE.rule(f"{i}/{len(wanted)} {cell[0]}, seed {cell[1]}")
        cells.append(settle(runs, cell, matrix.columns, matrix.references(cell, every, unasked)))
    line = f"python scripts/compare.py configs/compare/{args.matrix.name}{' --validation' if args.validation else ''}"
    line += f" --data {args.data.partition(':')[0]}:PATH" if args.data else ""
    spread = f"mean ± standard deviation over {len(matrix.seeds)} seeds"
    if args.update:
        cells = updated(args.tables / f"{name}.json", cells)
    rows = summary(cells, matrix.columns)
    note = f"Accuracies in percent; {spread}; seconds on {device()}. Made by `{line}`."
    table = markdown(matrix.title, rows, note, matrix.columns)
    print(table)
    if (args.only and not args.update) or overrides:  # not the whole table, or another one
        return
    out = runs if args.validation else args.tables
    facts = {"title": matrix.title, "made_by": line, "device": device(), "methods": rows, "cells": cells}
    CONSOLE.print(f"table  {write(out, name, table, facts)}")


def updated(table: Path, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells of a table that was made before, in its order, with those that are made again in their places.

    Raises:
        UserError: If there is no such table, or it has no such cell.
    """
    try:
        before = json.loads(table.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        raise UserError(f"{table} is not there to be updated; leave out --update and --only to make it.") from error
    again = {(c["method"], c["seed"]): c for c in cells}
    if new := again.keys() - {(c["method"], c["seed"]) for c in before}:
        raise UserError(f"{table} has no cell {sorted(new)[0]}; leave out --update and --only to make it anew.")
    return [again.get((c["method"], c["seed"]), c) for c in before]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and compare."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("matrix", type=Path, nargs="?", help="what to compare, such as configs/compare/glyphs.yaml")
    p.add_argument("--data", help="data to use in place of the file's, such as imagefolder:PATH")
    p.add_argument("--validation", action="store_true", help="examine on held-out training data; overrides may follow")
    p.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="these methods only; no table is written")
    p.add_argument(
        "--update", action="store_true", help="with --only: put the methods' rows into the table made before"
    )
    p.add_argument("--readme", action="store_true", help="copy finished tables into README.md and docs/*.md")
    p.add_argument("--runs", type=Path, default=ROOT / "runs" / "compare", help="where the cells are")
    p.add_argument("--tables", type=Path, default=ROOT / "docs" / "tables", help="where tables are written")
    args, overrides = p.parse_known_args(argv)
    if args.update and (args.validation or not args.only):
        p.error("--update takes --only METHOD and no --validation")
    if not (args.matrix or args.readme):
        p.error("name a comparison, or --readme")
    return guarded("compare", lambda: _carry_out(args, overrides))


def _carry_out(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    if args.matrix:
        compare(args, overrides)
    if args.readme:
        for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
            if MARKED.search(text := page.read_text(encoding="utf-8")):
                page.write_text(filled(text, args.tables), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

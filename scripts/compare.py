"""Compare methods: every method with every seed on one stream, as a table.

    python scripts/compare.py configs/compare/glyphs.yaml               # writes docs/tables/glyphs.md and .json
    python scripts/compare.py configs/compare/glyphs.yaml --validation --only EASE --model.adapter.width 32
    python scripts/compare.py --readme                                  # copies tables into README.md

Each cell is a run below ``runs/compare``, filed under its method, its seed, and a hash of its settings, backbone and
data: a finished one is not repeated, a stopped one is resumed, a changed one is made anew. Nothing else is looked at:
remove ``runs/compare`` after changing code. Settings are chosen with ``--validation``, which examines on held-out
training pictures, takes overrides as `clf run` does, and never writes a table into the docs.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional
from rich.console import Console

from cl_framework import commands, opening, state
from cl_framework.errors import UserError, did_you_mean
from cl_framework.experiment import Experiment, build
from cl_framework.run import Run
from cl_framework.stream import Subset

ROOT = Path(__file__).parents[1]
CONSOLE = Console(stderr=True)
Columns: TypeAlias = Mapping[str, tuple[str, float, int]]
COLUMNS: Columns = {
    "average_incremental_accuracy": ("average incremental accuracy", 100, 1),
    "final_accuracy": ("final accuracy", 100, 1),
    "forgetting_max_past": ("forgetting, max past", 100, 1),
    "plasticity": ("plasticity", 100, 1),
    "trainable_parameters": ("trained parameters (k)", 1e-3, 0),
    "stored_bytes": ("stored (MB)", 1e-6, 2),
    "seconds": ("seconds", 1, 0),
    "passes_per_test_image": ("passes per test image", 1, 0),
}
"""What is compared: heading, factor and decimals of each number in the table."""
FORGETTING: Columns = {
    "average_incremental_accuracy": ("average accuracy", 100, 1),
    "final_accuracy": ("final accuracy", 100, 1),
    "accuracy_forget": ("Acc_f", 100, 1),
    "accuracy_old": ("Acc_o", 100, 1),
    "relapse": ("relapse", 100, 1),
    "erosion": ("erosion", 100, 1),
    "h_mean_pre": ("H", 100, 1),
    "seconds_forget": ("s per request", 1, 2),
    "seconds": ("seconds", 1, 0),
}
"""What is compared where streams forget: means over requests, but Acc_o of the last and the worst relapse."""
Cell: TypeAlias = tuple[str, int, list[str]]
"""Method, seed, and the arguments of its run."""
MARKED = re.compile(r"(?<=<!-- table: )(?P<name>[\w-]+) -->\n.*?(?=<!-- /table -->)", re.DOTALL)


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
        forgets: Whether the stream forgets, so that other numbers are compared.
    """

    title: str
    seeds: Sequence[int]
    validation: float
    shared: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    forgets: bool = False

    @property
    def columns(self) -> Columns:
        """What is compared."""
        return FORGETTING if self.forgets else COLUMNS

    def cells(self, data: str | None, validation: bool, overrides: Sequence[str] = ()) -> Iterator[Cell]:
        """Yield every cell, seed by seed.

        Raises:
            UserError: If neither the file nor ``data`` names the data.
        """
        stream = self.shared["data"]["scenario"]
        stream = stream["init_args"]["stream"] if self.forgets else stream
        if not data and "dataset" not in stream["init_args"]:
            raise UserError(f"{self.title!r} names no data set; add `--data imagefolder:PATH`.")
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


def settle(runs: Path, method: str, seed: int, args: Sequence[str], columns: Columns = COLUMNS) -> dict[str, Any]:
    """Bring one cell to its end, from wherever it is, and return what it measured."""
    experiment = build(args, CONSOLE)
    manifest = opening.manifest(experiment)
    decides = json.dumps([list(args), manifest["backbone"], manifest["data"]])
    path = runs / f"{method.lower()}-{seed}-{sha256(decides.encode()).hexdigest()[:8]}"
    if not (path / "results.json").exists():
        if (path / "manifest.json").exists():
            commands.resume([str(path)])
        else:
            commands.run([*args, "--run_dir", str(path)])
    results = json.loads((path / "results.json").read_text(encoding="utf-8"))
    measured = {
        **{k: v for k, v in {**results, **results["cost"], **forgotten(results["forget"])}.items() if k in columns},
        "trainable_parameters": max(e["trainable_parameters"] for e in results["events"]),
        "passes_per_test_image": passes_per_image(Run.open(path), experiment),
    }
    return {"method": method, "seed": seed, "run": path.name, **{k: measured[k] for k in columns}}


def forgotten(requests: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Sum up what a run's forget requests did; empty if there were none.

    >>> forgotten([])
    {}
    """
    if not requests:
        return {}
    relapses = [r["relapse"] for r in requests if r["relapse"] is not None]
    return {
        **{k: statistics.mean(r[k] for r in requests) for k in ("accuracy_forget", "erosion", "h_mean_pre")},
        "accuracy_retain": requests[-1]["accuracy_retain"],
        "accuracy_old": requests[-1]["accuracy_old"],
        "relapse": max(relapses, default=None),
        "seconds_forget": statistics.mean(r["seconds"] for r in requests),
    }


def passes_per_image(run: Run, experiment: Experiment) -> int:
    """Count how often the finished learner passes one new picture through the backbone to answer."""
    learner = experiment.learner
    state.restore(learner, run.state(), run.events()[-1].state)
    before = learner.model.passes["evaluate"]
    learner.answer(Subset(next(iter(experiment.scenario.steps())).exam, torch.tensor([0])))
    return learner.model.passes["evaluate"] - before


def summary(cells: Sequence[Mapping[str, Any]], columns: Columns = COLUMNS) -> list[dict[str, Any]]:
    """Return mean and sample standard deviation over seeds of every number, by method; what is None in some is None.

    >>> [row] = summary([{"method": "EASE", "seed": s, **dict.fromkeys(COLUMNS, s)} for s in (1, 3)])
    >>> row["method"], row["mean"]["plasticity"], round(row["std"]["plasticity"], 3)
    ('EASE', 2, 1.414)
    """
    rows = []
    for method in dict.fromkeys(c["method"] for c in cells):
        values = {k: [c[k] for c in cells if c["method"] == method] for k in columns}
        known = {k: v for k, v in values.items() if None not in v}
        mean: dict[str, float | None] = dict.fromkeys(columns)
        std = dict.fromkeys(columns, 0.0)
        mean |= {k: statistics.mean(v) for k, v in known.items()}
        std.update({k: statistics.stdev(v) for k, v in known.items() if len(v) > 1})
        rows.append({"method": method, "mean": mean, "std": std})
    return rows


def markdown(title: str, rows: Sequence[Mapping[str, Any]], note: str, columns: Columns = COLUMNS) -> str:
    """Return a table; accuracies are in percent, a spread that rounds to nothing is left out, None is a dash."""

    def shown(mean: float | None, std: float, factor: float, digits: int) -> str:
        if mean is None:
            return "-"
        middle, spread = f"{mean * factor:,.{digits}f}", f"{std * factor:,.{digits}f}"
        return f"{middle} ± {spread}" if float(spread.replace(",", "")) else middle

    lines = [f"| {title} | " + " | ".join(heading for heading, _, _ in columns.values()) + " |"]
    lines += ["|---|" + "---:|" * len(columns)]
    for row in rows:
        numbers = [shown(row["mean"][k], row["std"][k], factor, digits) for k, (_, factor, digits) in columns.items()]
        lines.append(f"| {row['method']} | " + " | ".join(numbers) + " |")
    return "\n".join([*lines, "", note, ""])


def filled(readme: str, tables: Path) -> str:
    """Return ``readme`` with the table NAME between each ``<!-- table: NAME -->`` and ``<!-- /table -->``.

    Raises:
        UserError: If there is no such pair, or a table is not made yet.
    """
    names = [m["name"] for m in MARKED.finditer(readme)]
    if not names:
        raise UserError("README.md has no place for a table; add lines `<!-- table: NAME -->` and `<!-- /table -->`.")
    if missing := [n for n in names if not (tables / f"{n}.md").exists()]:
        raise UserError(f"{tables} has no {missing[0]}.md; `compare.py configs/compare/{missing[0]}.yaml` makes it.")
    texts = {n: (tables / f"{n}.md").read_text(encoding="utf-8") for n in names}
    return MARKED.sub(lambda m: f"{m['name']} -->\n{texts[m['name']]}", readme)


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
    wanted = [c for c in matrix.cells(args.data, args.validation, overrides) if c[0] in (args.only or matrix.methods)]
    cells = []
    for i, (method, seed, settings) in enumerate(wanted, 1):
        CONSOLE.rule(f"{i}/{len(wanted)} {method}, seed {seed}")
        cells.append(settle(runs, method, seed, settings, matrix.columns))
    line = f"python scripts/compare.py configs/compare/{args.matrix.name}{' --validation' if args.validation else ''}"
    line += f" --data {args.data.partition(':')[0]}:PATH" if args.data else ""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU thread(s)"
    spread = f"mean ± standard deviation over {len(matrix.seeds)} seeds"
    rows = summary(cells, matrix.columns)
    note = f"Accuracies in percent; {spread}; seconds on {where}. Made by `{line}`."
    table = markdown(matrix.title, rows, note, matrix.columns)
    print(table)
    if args.only or overrides:  # not the whole table, or another one
        return
    out = runs if args.validation else args.tables
    out.mkdir(parents=True, exist_ok=True)
    facts = {"title": matrix.title, "made_by": line, "device": where, "methods": rows, "cells": cells}
    (out / f"{name}.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(table, encoding="utf-8")
    CONSOLE.print(f"table  {out / name}.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and compare."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("matrix", type=Path, nargs="?", help="what to compare, such as configs/compare/glyphs.yaml")
    p.add_argument("--data", help="data to use in place of the file's, such as imagefolder:PATH")
    p.add_argument("--validation", action="store_true", help="examine on held-out training data; overrides may follow")
    p.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="these methods only; no table is written")
    p.add_argument("--readme", action="store_true", help="copy finished tables into README.md")
    p.add_argument("--runs", type=Path, default=ROOT / "runs" / "compare", help="where the cells are")
    p.add_argument("--tables", type=Path, default=ROOT / "docs" / "tables", help="where tables are written")
    args, overrides = p.parse_known_args(argv)
    if not (args.matrix or args.readme):
        p.error("name a comparison, or --readme")
    try:
        if args.matrix:
            compare(args, overrides)
        if args.readme:
            for page in (ROOT / "README.md", ROOT / "docs" / "glyphs.md", ROOT / "docs" / "forgetting.md"):
                page.write_text(filled(page.read_text(encoding="utf-8"), args.tables), encoding="utf-8")
    except UserError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same line goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

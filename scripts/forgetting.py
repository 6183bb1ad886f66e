"""Compare ways of forgetting: learn a stream, then forget in sequence, and audit what is left inside.

    python scripts/forgetting.py configs/compare/forgetting.yaml            # writes docs/tables/forgetting.md and .json
    python scripts/forgetting.py configs/compare/forgetting.yaml --only GSLoRA --seeds 1993    # no table is written

Every base is learned once per seed; each method starts from a copy of its run directory and answers the same requests
through `clf forget`. The references of the audit are the base itself and the method that is called Retrain. A finished
cell is not repeated, a stopped one goes on. Remove ``runs/forgetting`` after changing code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.backbones.glyph import GlyphViT
from cl_framework.errors import UserError, did_you_mean
from cl_framework.runs.directory import RunDirectory
from scripts.cells import CONSOLE, ROOT, audited, carried_out, guarded, images, results_of
from scripts.cells import forgotten as of_requests
from scripts.tables import AUDIT, EFFORT, REQUESTS, Columns, markdown, summary, write

REFERENCE = "Retrain"
COLUMNS: Columns = {
    **REQUESTS, **AUDIT, "trained": ("trained, % of backbone", 100, 2), **EFFORT,
}  # fmt: skip
"""What is compared: heading, factor and decimals of each number in the table."""


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """A comparison, as its YAML file describes it.

    Attributes:
        title: What is compared on what.
        seeds: Each decides training and the order of classes.
        times: How many requests follow one another.
        classes: How many classes each takes, the last of the order first.
        shared: Sections of a config that all bases share.
        bases: What each base changes in them.
        methods: Name -> its base and its unlearner.
    """

    title: str
    seeds: Sequence[int]
    times: int
    classes: int
    shared: Mapping[str, Any]
    bases: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]


def read(path: Path) -> Plan:
    """Read a comparison.

    Raises:
        UserError: If the file cannot be read or has other keys than a `Plan`.
    """
    try:
        return Plan(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, yaml.YAMLError) as error:
        shown = "configs/compare/forgetting.yaml shows how"
        raise UserError(f"{path} describes no comparison ({error}); {shown}.") from error


def learned(plan: Plan, base: str, seed: int, runs: Path) -> Path:
    """Bring a base to its end, from wherever it is, and return its run directory."""
    settings = [json.dumps(plan.shared), json.dumps(plan.bases[base])]
    path = runs / f"{base.lower()}-{seed}-{sha256(''.join(settings).encode()).hexdigest()[:8]}"
    if (path / "results.json").exists():
        return path
    if (path / "manifest.json").exists():
        carried_out("resume", str(path))
        return path
    order = ("--data.scenario.init_args.order_seed", str(seed))
    configs = [word for s in settings for word in ("--config", s)]
    carried_out("run", *configs, "--seed_everything", str(seed), *order, "--run_dir", str(path))
    return path


def forgotten(plan: Plan, method: str, base: Path, runs: Path) -> Path:
    """Answer every request by ``method`` on a copy of ``base``; return the run directory."""
    unlearner = json.dumps(plan.methods[method]["unlearner"])
    tag = sha256((base.name + unlearner).encode()).hexdigest()[:8]
    path = runs / f"{base.name}-{plan.methods[method]['unlearner']['class_path'].lower()}-{tag}"
    if not path.exists():
        part = path.with_name(f".tmp-{path.name}")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(base, part)
        part.rename(path)
    done = sum(e.kind == "forget" for e in RunDirectory.open(path).events())
    for i in range(done, plan.times):
        carried_out("forget", str(path), "--model.unlearner", unlearner, "--classes", *asked(plan, base, i))
    return path


def asked(plan: Plan, base: Path, i: int) -> list[str]:
    """Return the classes of request ``i``, as words: those that came last, of what earlier requests left."""
    order = [c for e in results_of(base)["exams"] for c in e["classes"]]
    last = len(order) - i * plan.classes
    return [f"id:{c}" for c in order[last - plan.classes : last]]


def settle(plan: Plan, method: str, seed: int, runs: Path) -> dict[str, Any]:
    """Bring one cell to its end and return what it measured.

    The audit takes the retrained model from the method called Retrain where its base has one, and learns it otherwise.
    """
    family = plan.methods[method]["base"]
    base = learned(plan, family, seed, runs)
    path = forgotten(plan, method, base, runs)
    slowest = [m for m, told in plan.methods.items() if told["base"] == family and m == REFERENCE]
    retrained = [forgotten(plan, m, base, runs) for m in slowest]
    results, reference = results_of(path), results_of((retrained or [path])[0])
    given = [word for r in retrained for word in ("--retrained", str(r))]
    audit = audited(path, "--original", str(base), *given, "--seeds", "1")
    backbone = sum(p.numel() for p in GlyphViT().parameters())
    return {
        "method": method,
        "seed": seed,
        "run": path.name,
        **of_requests(results["forget"]),
        **audit,
        "trained": max(e["trainable_parameters"] for e in results["events"] if e["kind"] == "forget") / backbone,
        "images": images(results) / whole if retrained and (whole := images(reference)) else None,
    }


def tabulate(args: argparse.Namespace) -> None:
    """Settle every cell, print the table, and write it if nothing of it was left out.

    Raises:
        UserError: If a method is unknown.
    """
    plan = read(args.plan)
    if unknown := [m for m in args.only if m not in plan.methods]:
        raise UserError(f"{args.plan} has no method {unknown[0]!r}. {did_you_mean(unknown[0], plan.methods)}")
    wanted = [(m, s) for s in args.seeds or plan.seeds for m in args.only or plan.methods]
    cells = []
    for i, (method, seed) in enumerate(wanted, 1):
        CONSOLE.rule(f"{i}/{len(wanted)} {method}, seed {seed}")
        cells.append(settle(plan, method, seed, args.runs))
    cells.sort(key=lambda c: list(plan.methods).index(c["method"]))
    line = f"python scripts/forgetting.py configs/compare/{args.plan.name}"
    note = f"In percent unless said; mean ± standard deviation over {len(plan.seeds)} seeds. Made by `{line}`."
    rows = summary(cells, COLUMNS)
    table = markdown(plan.title, rows, note, COLUMNS)
    print(table)
    if args.only or args.seeds:
        return
    facts = {"title": plan.title, "made_by": line, "methods": rows, "cells": cells}
    CONSOLE.print(f"table  {write(args.tables, args.plan.stem, table, facts)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and compare."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("plan", type=Path, help="what to compare, such as configs/compare/forgetting.yaml")
    p.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="these methods only; no table is written")
    p.add_argument("--seeds", nargs="+", default=[], type=int, metavar="SEED", help="these seeds only; likewise")
    p.add_argument("--runs", type=Path, default=ROOT / "runs" / "forgetting", help="where the cells are")
    p.add_argument("--tables", type=Path, default=ROOT / "docs" / "tables", help="where tables are written")
    args = p.parse_args(argv)
    return guarded("forgetting", lambda: tabulate(args))


if __name__ == "__main__":
    sys.exit(main())

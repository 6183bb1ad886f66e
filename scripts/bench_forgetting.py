"""Time one forget request by several methods, one after the other in one process, as ratios to retraining.

    python scripts/bench_forgetting.py configs/compare/forgetting.yaml --methods Retrain GSLoRA "SimpleCIL, DropAdapter"

Bases and settings are those of `scripts/forgetting.py`, whose learned runs are used where they are. Each method gets a
fresh copy of its base and forgets the last ten classes through `clf forget`: ``command`` is all of that command after
imports (reading the run, building the model, exams, files), ``request`` what `results.json` says the request took,
exams before and after it included, ``work`` the same without exams: what forgetting itself costs. Prints a table;
``--out`` writes it, with a JSON file beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_framework.engine import loop
from scripts.cells import ROOT, carried_out, device, guarded, images, results_of
from scripts.forgetting import Plan, asked, learned, read
from scripts.phases import Stopwatch
from scripts.tables import write

METHODS = ("Retrain", "GSLoRA", "SimpleCIL, DropAdapter", "SLDA, Subtract", "ACIL, Subtract", "EASE, DropAdapter")


def timed(plan: Plan, method: str, base: Path) -> dict[str, Any]:
    """Carry out the first request by ``method`` on a copy of ``base`` and return what it took."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / base.name
        shutil.copytree(base, path)
        unlearner = json.dumps(plan.methods[method]["unlearner"])
        watch, carry_out = Stopwatch(), loop.carry_out
        loop.carry_out = watch("work", carry_out)
        began = time.perf_counter()
        try:
            carried_out("forget", str(path), "--model.unlearner", unlearner, "--classes", *asked(plan, base, 0))
        finally:
            loop.carry_out = carry_out
        command = time.perf_counter() - began
        results = results_of(path)
    return {
        "method": method,
        "command": command,
        "request": results["forget"][-1]["seconds"],
        "work": watch.seconds["work"],
        "images": images(results),
        "accuracy_forget": results["forget"][-1]["accuracy_forget"],
    }


def markdown(rows: Sequence[dict[str, Any]], note: str) -> str:
    """Return a table; the first row is what the ratios refer to."""
    heads = ("`clf forget`, s", "request, s", "% of retraining", "without exams, s", "% of retraining", "images read")
    lines = ["| one request: 10 of 100 classes | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for r in rows:
        request, work = (f"{r[k]:.2f} | {100 * r[k] / rows[0][k]:.1f}" for k in ("request", "work"))
        lines.append(f"| {r['method']} | {r['command']:.2f} | {request} | {work} | {r['images']:,} |")
    return "\n".join([*lines, "", note, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments, measure, print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("plan", type=Path, help="what to time, such as configs/compare/forgetting.yaml")
    p.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD", help="the first is the reference")
    p.add_argument("--runs", type=Path, default=ROOT / "runs" / "forgetting", help="where learned bases are")
    p.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there, and FILE.json")
    args = p.parse_args(argv)
    return guarded("bench_forgetting", lambda: bench(args))


def bench(args: argparse.Namespace) -> None:
    """Learn the bases, time each method on its own, print, and write if asked to."""
    plan = read(args.plan)
    bases = {m: learned(plan, plan.methods[m]["base"], plan.seeds[0], args.runs) for m in args.methods}
    rows = [timed(plan, m, bases[m]) for m in args.methods]
    line = f"python scripts/bench_forgetting.py configs/compare/{args.plan.name}"
    table = markdown(rows, f"One process, one after the other, on {device()}. Made by `{line}`.")
    print(table)
    if args.out:
        write(args.out.parent, args.out.stem, table, rows)


if __name__ == "__main__":
    sys.exit(main())

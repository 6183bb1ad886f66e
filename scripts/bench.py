"""Print what an experiment costs, as JSON: seconds per phase, images per second, passes, peak memory.

    scripts/bench configs/quickstart.yaml
    scripts/bench configs/quickstart.yaml --model.strategy SimpleCIL --trainer.max_epochs 2
    scripts/bench --versus plain "no feature store" --out docs/tables/bench.md      # ratios within one run, as a table

Everything runs in this process and nothing is written but the table; progress goes to stderr. Without a config it is
configs/bench/gpu.yaml where there is a GPU and configs/bench/cpu.yaml elsewhere. The phases are ``data`` (reading and
varying pictures), ``train`` (the rest of Lightning's fit), ``prototypes`` (the rest of carrying out a request:
prototypes and other statistics), ``evaluation`` (answering exams), ``forget`` (all of carrying out forget requests) and
``other`` (making trainers, accounts). Images are those that were read, under ``data``, and elsewhere those that passed
through the backbone: what the feature store remembers is not passed again. The list ``forget`` tells of each request,
exams and all: what it costs against one that learns everything again is a ratio within one run.

``--versus`` names what to compare with: ``plain`` is `plain_loop`, others are `VARIANTS`, ``all`` is all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import cl_framework.threads  # noqa: F401  # before torch

import torch

from cl_framework.configuration.experiment import Experiment, build
from cl_framework.errors import UserError, did_you_mean
from scripts.cells import CONSOLE, ROOT, device
from scripts.flops import extraction
from scripts.phases import DATA, PASSES, Stopwatch, measured
from scripts.plain_loop import PlainEase
from scripts.tables import write
from scripts.variants import VARIANTS, Variant

PLAIN, ALL = "plain", "all"
LOOPS = {PLAIN: False, "plain, patches embedded once": True}
"""Plain loops by name, and whether they share what comes before the first block."""
WALL = "wall"
CLOCKS = {WALL: time.perf_counter, "processor": time.process_time}


def bench(args: Sequence[str], variant: Variant | None = None, clock: str = WALL) -> dict[str, Any]:
    """Carry out the experiment that ``args`` describe, or a variant of it, and return what each phase took."""
    variant = variant or Variant()
    with TemporaryDirectory() as cache, patch.dict(os.environ, CLF_CACHE=cache):  # pictures are decoded anew
        experiment = build([*args, *variant.overrides], CONSOLE)
        with variant.change(experiment):
            found = measured(experiment, CLOCKS[clock])
            return {**found, "extraction": None if variant != Variant() else measured_extraction(experiment)}


def measured_extraction(experiment: Experiment) -> dict[str, float | str] | None:
    """Measure feature extraction on pictures of the first exam; None for sentences, whose passes differ in length."""
    x = next(iter(experiment.scenario.steps())).exam[[0]].x
    return extraction(experiment.learner.model, x.expand(256, -1, -1, -1).clone()) if x.ndim == 4 else None


def compare(args: Sequence[str], names: Sequence[str], workers: int, clock: str) -> dict[str, dict[str, Any]]:
    """Carry out the experiment, and then each of ``names``, one after the other."""
    found = {"as it is": bench(args, clock=clock)}
    for name in names:
        CONSOLE.print(f"--- {name}")
        if name in LOOPS:
            found[name] = PlainEase(build(args, CONSOLE), workers, LOOPS[name], Stopwatch(CLOCKS[clock])).run()
        else:
            found[name] = bench(args, VARIANTS[name], clock)
    return found


def named(asked: Sequence[str]) -> list[str]:
    """Return the names of what to compare with; ``all`` leaves out what this machine has no use for.

    Raises:
        UserError: If a name is unknown.
    """
    fitting = [n for n, v in VARIANTS.items() if v.gpu in (None, torch.cuda.is_available())]
    names = [n for name in asked for n in ([*LOOPS, *fitting] if name == ALL else [name])]
    if unknown := [n for n in names if n not in {*LOOPS, *VARIANTS}]:
        near = did_you_mean(unknown[0], [*LOOPS, *VARIANTS])
        raise UserError(f"There is nothing called {unknown[0]!r} to compare with. {near}")
    return list(dict.fromkeys(names))


def markdown(found: Mapping[str, Mapping[str, Any]], title: str, note: str) -> str:
    """Return a table of seconds by phase, and of ratios to the plain loop, or else to the experiment as it is."""
    reference = found.get(PLAIN) or next(iter(found.values()))
    than = "plain" if PLAIN in found else "as it is"
    phases = [p for p in (DATA, *PASSES, "forget", "other") if any(f["phases"][p]["seconds"] for f in found.values())]
    heads = (*(f"{p}, s" for p in phases), "all, s", f"evaluation, x {than}", f"all, x {than}", "passes", "MB", "A_B")
    lines = [f"| {title} | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, f in found.items():
        seconds = [f["phases"][p]["seconds"] for p in phases] + [f["total_seconds"]]
        ratios = [
            reference["phases"]["evaluation"]["seconds"] / f["phases"]["evaluation"]["seconds"],
            reference["total_seconds"] / f["total_seconds"],
        ]
        passes = sum(f["phases"][p]["images"] for p in (*PASSES, "forget"))
        rest = [f"{passes:,}", f"{f['peak_memory_bytes'] / 1e6:,.0f}", f"{100 * f['final_accuracy']:.1f}"]
        lines.append(f"| {name} | " + " | ".join([*(f"{s:.2f}" for s in (*seconds, *ratios)), *rest]) + " |")
    return "\n".join([*lines, "", note, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments, measure, print."""
    usage = "scripts/bench [CONFIG] [--versus NAME ...] [--out FILE.md] [--key value, as for `clf run`] ..."
    p = argparse.ArgumentParser(None, usage, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    default = str(ROOT / "configs" / "bench" / f"{kind}.yaml")
    p.add_argument("--versus", nargs="+", default=[], metavar="NAME", help="; ".join([*LOOPS, *VARIANTS, ALL]))
    p.add_argument("--workers", type=int, default=8 if kind == "gpu" else 0, help="that read for the plain loop")
    p.add_argument("--clock", choices=list(CLOCKS), default=WALL, help="processor: for a machine that has other work")
    p.add_argument("--title", default="EASE, 10 tasks", help="of the table")
    p.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there, and FILE.json")
    words = list(sys.argv[1:] if argv is None else argv)
    named_config = words.pop(0) if words and not words[0].startswith("-") else None
    args, overrides = p.parse_known_args(words)
    try:
        whole = ["--config", named_config or default, *overrides]
        found = compare(whole, named(args.versus), args.workers, args.clock)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    facts: dict[str, Any] = {"experiment": named_config or f"configs/bench/{kind}.yaml", "overrides": overrides}
    facts |= found if args.versus else next(iter(found.values()))
    print(json.dumps(facts, indent=2))
    if args.out:
        config, clock = [named_config] if named_config else [], ["--clock", args.clock] if args.clock != WALL else []
        line = shlex.join(["scripts/bench", *config, *overrides, "--versus", *args.versus, *clock])
        kind = "processor seconds" if args.clock != WALL else "seconds"
        note = f"One process, one after the other, on {device()}; {kind}. Made by `{line}`."
        write(args.out.parent, args.out.stem, markdown(found, args.title, note), facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long the command line takes to answer, and to reach its first training step, as a table.

    python scripts/startup.py            # writes docs/tables/startup.md and .json

Each line is the median of fresh processes, one after the other in turns, in seconds of the processor. A run must import
torch, torchvision and Lightning, so its time is told against theirs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cl_framework.errors import UserError
from scripts.cells import ROOT, guarded
from scripts.tables import write

IMPORTS = "import torchvision, pytorch_lightning"
CLF = "import sys; from cl_framework.cli.main import main; sys.exit(main({}))"
FIRST_STEP = f"""
import os
from cl_framework.engine.learner import Learner
Learner.training_step = lambda *_: os._exit(0)
{CLF}
"""
RUN = "clf run, to its first training step"


def commands(folder: Path) -> dict[str, str]:
    """Return what to time: a Python program by the name a table gives it. Runs are made below ``folder``."""
    made = str(folder / "made")
    light = (["--help"], ["list"], ["list", "strategies"], ["verify", made], ["report", made])
    named = {" ".join(["clf", *("DIR" if word == made else word for word in words)]): words for words in light}
    run = ["run", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--run_dir", str(folder / "new")]
    return {
        IMPORTS: f"{IMPORTS}; import os; os._exit(0)",  # cut off as the run is
        **{name: CLF.format(words) for name, words in named.items()},
        RUN: f"import shutil; shutil.rmtree({run[-1]!r}, True)\n" + FIRST_STEP.format(run),
    }


def took(program: str) -> float:
    """Run a program in a fresh process and return its processor seconds, which other work does not lengthen.

    Raises:
        UserError: If it fails.
    """
    began = _children()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"This program failed; fix what it says: {program.strip()}\n{done.stderr}")
    return _children() - began


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(medians: Mapping[str, float], note: str) -> str:
    """Return a table of seconds, and of the run's against those of its imports."""
    lines = ["| a fresh process | processor seconds | x imports |", "|---|---:|---:|"]
    for name, s in medians.items():
        lines.append(f"| `{name}` | {s:.2f} | {s / medians[IMPORTS]:.2f} |")
    return "\n".join([*lines, "", note, ""])


def measure(args: argparse.Namespace) -> None:
    """Make a small run for the light verbs, time everything in turns, print, write."""
    with tempfile.TemporaryDirectory() as name:
        every = commands(Path(name))
        small = ["--trainer.limit_train_batches", "1", "--run_dir", f"{name}/made"]
        took(CLF.format(["run", "--config", str(ROOT / "configs" / "quickstart.yaml"), *small]))
        times = [{n: took(program) for n, program in every.items()} for _ in range(args.times)]
    medians = {n: statistics.median(t[n] for t in times) for n in every}
    note = f"Median of {args.times} processes each. Made by `python scripts/startup.py --times {args.times}`."
    table = markdown(medians, note)
    print(table)
    write(args.out, "startup", table, {"medians": medians, "seconds": times})


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and measure."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--times", type=int, default=5, help="processes for each line")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "tables", help="where the table goes")
    args = p.parse_args(argv)
    return guarded("startup", lambda: measure(args), resumes=False)


if __name__ == "__main__":
    sys.exit(main())

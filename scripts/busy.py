"""What a busy machine costs: processor seconds of a run alone, and of each of two runs at once, as a table.

    python scripts/busy.py               # writes docs/tables/busy.md and .json; fails above 1.2 times
    OMP_WAIT_POLICY=active CLF_THREADS=2 python scripts/busy.py --out /tmp    # what it would cost otherwise

A run alone and two at once take turns; medians count. Processor seconds do not count waiting, but they do count threads
that spin. ``--config`` and what follows are those of `clf run`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cl_framework.errors import UserError
from scripts.cells import ROOT, guarded
from scripts.tables import write

CLF = "import sys; from cl_framework.cli.main import main; sys.exit(main(sys.argv[1:]))"
SETTINGS = ("OMP_WAIT_POLICY", "CLF_THREADS", "OMP_NUM_THREADS")
ALLOWED = 1.2
"""Most that a run beside another may cost, in processor seconds of a run alone."""


def at_once(count: int, args: Sequence[str], folder: Path) -> list[float]:
    """Carry out so many equal runs at once in processes of their own; return the processor seconds of each.

    Raises:
        UserError: If one of them fails.
    """
    started = []
    for i in range(count):
        words = [sys.executable, "-c", CLF, "run", *args, "--run_dir", str(folder / f"run-{i}")]
        started.append(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL))
    seconds = []
    for process in started:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds.append(used.ru_utime + used.ru_stime)
    if any(process.returncode for process in started):
        raise UserError("A run failed; fix what it says above.")
    return seconds


def measure(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Take turns, print and write the table.

    Raises:
        UserError: If runs beside each other cost more than `ALLOWED` says.
    """
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(options.times):
        for count, seconds in ((1, alone), (2, beside)):
            with tempfile.TemporaryDirectory() as folder:
                seconds += at_once(count, args, Path(folder))
    one, two = statistics.median(alone), statistics.median(beside)
    said = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    rows = [f"| alone | {one:.1f} | 1.00 |", f"| each of two at once | {two:.1f} | {two / one:.2f} |"]
    made = f"{os.cpu_count()} cores, medians of {options.times} turns. Made by `python scripts/busy.py`."
    note = f"`clf run {' '.join(args)}`, {made}"
    table = "\n".join(["| a run | processor seconds | x alone |", "|---|---:|---:|", *rows, "", note, ""])
    print(table)
    write(options.out, "busy", table, {"alone": alone, "at_once": beside, "environment": said})
    if two > ALLOWED * one:
        raise UserError(f"A run beside another costs {two / one:.2f} times its processor seconds, more than {ALLOWED}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and measure."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--times", type=int, default=3, help="turns (default 3)")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "tables", help="where the table goes")
    options, args = p.parse_known_args(argv)
    return guarded("busy", lambda: measure(options, args or ["--config", "configs/quickstart.yaml"]), resumes=False)


if __name__ == "__main__":
    sys.exit(main())

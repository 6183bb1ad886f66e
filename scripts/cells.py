"""Cells of a comparison: a run brought to its end, audited, and what it measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import torch

from cl_framework.cli import main
from cl_framework.cli import run as cli_run
from cl_framework.configuration.experiment import Experiment, build
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.runs import reopening
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Joined, Subset
from cl_framework.terminal.console import make_console
from cl_framework.terminal.safe_text import say
from scripts.tables import AUDIT, Columns

ROOT = Path(__file__).parents[1]
CONSOLE = make_console(stderr=True)
Cell: TypeAlias = tuple[str, int, list[str]]
"""Method, seed, and the arguments of its run."""


def device() -> str:
    """Return what seconds are measured on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU thread(s)"


def finished(runs: Path, method: str, seed: int, args: Sequence[str]) -> tuple[Path, Experiment]:
    """Bring one cell to its end, from wherever it is, and return its run directory."""
    experiment = build(args, CONSOLE)
    manifest = reopening.manifest(experiment)
    decides = json.dumps([list(args), manifest["backbone"], manifest["data"]])
    path = runs / f"{method.lower()}-{seed}-{sha256(decides.encode()).hexdigest()[:8]}"
    if not (path / "results.json").exists():
        if (path / "manifest.json").exists():
            cli_run.resume([str(path)])
        else:
            cli_run.run([*args, "--run_dir", str(path)])
    return path, experiment


def settle(runs: Path, cell: Cell, columns: Columns, references: tuple[Cell, Cell] | None = None) -> dict[str, Any]:
    """Bring one cell to its end and return what it measured; where requests are compared, audit it.

    Args:
        runs: Where the cells are.
        cell: Which one.
        columns: What is compared.
        references: Of the same stream by the same strategy, the cell that learned everything again at each request,
            and the one that was asked to forget nothing; without them the audit learns models of its own.
    """
    method, seed, _ = cell
    path, experiment = finished(runs, *cell)
    results = results_of(path)
    measured = {**results, **results["cost"], **forgotten(results["forget"])}
    if AUDIT.keys() <= columns.keys():
        made = [finished(runs, *c)[0] for c in references or ()]
        given = [w for option, p in zip(("--retrained", "--original"), made, strict=False) for w in (option, str(p))]
        measured |= audited(path, *given, "--seeds", "1")
        measured["images"] = images(results) / images(results_of(made[0])) if made else None
    measured["trainable_parameters"] = max(e["trainable_parameters"] for e in results["events"])
    measured["passes_per_test_image"] = passes_per_image(RunDirectory.open(path), experiment)
    return {"method": method, "seed": seed, "run": path.name, **{k: measured[k] for k in columns}}


def carried_out(*args: str) -> None:
    """Carry out a command line.

    Raises:
        UserError: If it fails; what was wrong is on the screen.
    """
    if code := main.main(args):
        raise UserError(f"`clf {' '.join(args)}` ended with {code}; fix that, then run this line again.")


def audited(path: Path, *args: str) -> dict[str, Any]:
    """Audit a run, unless that is done in full, and return what the audit says of it."""
    found = _audit(path)
    if not AUDIT.keys() <= found.keys():
        carried_out("audit", str(path), *args, "--no-relearn")
        found = _audit(path)
    return {k: found[k]["run"] for k in AUDIT}


def _audit(path: Path) -> dict[str, Any]:
    file = path / "audit.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["metrics"]) if file.exists() else {}


def results_of(path: Path) -> dict[str, Any]:
    """Return what a finished run measured."""
    found: dict[str, Any] = json.loads((path / "results.json").read_text(encoding="utf-8"))
    return found


def images(results: Mapping[str, Any]) -> int:
    """Count the images that all forget requests of a run sent through the backbone, exams aside."""
    forgets = [e for e in results["events"] if e["kind"] == "forget"]
    return sum(e["passes_train"] + e["passes_statistics"] for e in forgets)


def forgotten(requests: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Sum up what a run's forget requests did; empty if there were none. Of samples whose class stays, only the costs.

    >>> forgotten([])
    {}
    """
    if not requests:
        return {}
    whole = [r for r in requests if r["samples"] is None]
    relapses = [r["relapse"] for r in whole if r["relapse"] is not None]
    return {
        **{k: _mean(r[k] for r in whole) for k in ("accuracy_forget", "h_mean_pre")},
        "erosion": _mean(r["erosion"] for r in requests),
        "accuracy_retain": requests[-1]["accuracy_retain"],
        "accuracy_old": requests[-1]["accuracy_old"],
        "relapse": max(relapses, default=None),
        "seconds_forget": statistics.mean(r["seconds"] for r in requests),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what was measured; None where nothing was."""
    known = [v for v in values if v is not None]
    return statistics.mean(known) if known else None


def passes_per_image(run: RunDirectory, experiment: Experiment, some: int = 100) -> float:
    """Return how many passes the finished learner makes to answer about one of ``some`` samples from all exams."""
    learner = experiment.learner
    checkpoint.restore(learner, run.state(), run.events()[-1].state)
    exams = Joined([s.exam for s in experiment.scenario.steps() if isinstance(s.event, Experience)])
    rows = torch.linspace(0, len(exams) - 1, min(some, len(exams))).long()
    before = learner.model.passes["evaluate"]
    learner.answer(Subset(exams, rows))
    return (learner.model.passes["evaluate"] - before) / len(rows)


def guarded(script: str, work: Callable[[], None], resumes: bool = True) -> int:
    """Do the work of a script and return its exit code: 2 after a mistake, 130 after Ctrl-C, both explained."""
    try:
        work()
    except UserError as error:
        say(f"{script}: {error}", error=True)
        return 2
    except KeyboardInterrupt:
        say("stopped; the same line goes on from here" if resumes else "stopped", error=True)
        return 130
    return 0

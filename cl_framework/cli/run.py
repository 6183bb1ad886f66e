"""Verbs that carry out a stream: run, resume, learn. `query` has those that read, `forget` those that forget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from cl_framework.cli import arguments
from cl_framework.configuration import optimiser, shipped
from cl_framework.configuration.experiment import Experiment, build
from cl_framework.operations import streaming
from cl_framework.operations.preparation import prepare, warn
from cl_framework.runs import receipts
from cl_framework.runs.reopening import opened
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE


def run(argv: Sequence[str]) -> int:
    """Carry out a config from the first event to the last."""
    argv = shipped.with_paths(argv)
    key = receipts.new_key()
    experiment, timeline = prepared(argv, key)
    path = Path(experiment.run_dir) if experiment.run_dir else _free(Path("runs"), _title(argv))
    streaming.start_run(experiment, timeline, key, path)
    return 0


def resume(argv: Sequence[str]) -> int:
    """Continue a stopped run."""
    args = arguments.parse("resume", argv)
    streaming.resume_run(opened(args.dir, args.relocate), args.rest)
    return 0


def learn(argv: Sequence[str]) -> int:
    """Learn more on a finished run."""
    args = arguments.parse("learn", argv)
    streaming.learn_more(opened(args.dir, args.relocate), args.rest, args.as_new, args.skip_unreadable)
    return 0


def prepared(argv: Sequence[str], key: bytes | None = None) -> tuple[Experiment, Timeline]:
    """Build the experiment of a config, and check all that would stop it, before a directory is made.

    Args:
        argv: Config files and flags.
        key: The key of the new run.

    Returns:
        The experiment and its requests.

    Raises:
        UserError: If a run of it would be refused.
    """
    experiment = build(argv, CONSOLE)
    timeline = prepare(experiment, key)
    if warning := optimiser.leftover_warning(argv, experiment.config):
        warn(warning)
    return experiment, timeline


def _title(argv: Sequence[str]) -> str:
    """Name a run after the first config file given, or after nothing in particular."""
    given = [b for a, b in pairwise(argv) if a in ("--config", "-c")]
    given += [a.partition("=")[2] for a in argv if a.startswith("--config=")]
    return Path(given[0]).stem if given else "run"


def _free(parent: Path, name: str) -> Path:
    """Return a directory under ``parent`` that does not exist yet."""
    candidates = (parent / (name + (f"-{i}" if i else "")) for i in range(10_000))
    return next(p for p in candidates if not p.exists())

"""Carry out a stream: start a run, resume one, learn more on one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_framework.configuration import optimiser
from cl_framework.configuration.experiment import Experiment
from cl_framework.configuration.parser import SKIP, scenario_of
from cl_framework.methods.compatibility import check_events
from cl_framework.operations.preparation import look, print_lines, try_inputs
from cl_framework.runs import maintenance, receipts, relocation
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.reopening import manifest
from cl_framework.streams.identifiers import concealed
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE


def start_run(experiment: Experiment, timeline: Timeline, key: bytes, path: Path) -> OpenRun:
    """Start a run in a new directory, and carry it out.

    Args:
        experiment: What to carry out.
        timeline: Its requests, as `preparation.prepare` returned them.
        key: The key of the run.
        path: The directory.

    Raises:
        UserError: If something is there already, or a request fails; without a request that succeeded nothing is left.
    """
    config = concealed(relocation.absolute(experiment.config), experiment.scenario.class_names, key)
    directory = RunDirectory.create(path, config, manifest(experiment), key)
    count = len(list(timeline.steps()))
    CONSOLE.print(f"{count} request{'s'[: count != 1]} -> {path}", soft_wrap=True)
    print_lines(experiment.learner.model.backbone.notes)
    run = OpenRun(directory, experiment, timeline)
    with directory.lock():
        try:
            run.go_on()
        except Exception:  # with nothing committed there is nothing to resume, and the same mistake would come again
            maintenance.discard(directory.path)
            raise
    return run


def resume_run(directory: RunDirectory, changes: Sequence[str] = ()) -> OpenRun:
    """Go on where a run was stopped.

    Args:
        directory: The run.
        changes: Settings of the optimiser that hold from now on, as options.

    Raises:
        UserError: If the run is damaged, or what it needs is not there.
    """
    with directory.lock():
        directory.sweep()
        run = OpenRun.reopen(directory, changes=changes, renew=True)
        CONSOLE.print(f"{len(run.left)} of {len(run.steps)} requests left -> {run.path}", soft_wrap=True)
        run.go_on()
    return run


def learn_more(
    directory: RunDirectory, options: Sequence[str], as_new: str | None = None, skip: bool = False
) -> OpenRun:
    """Learn more on a finished run.

    Args:
        directory: The run.
        options: What to learn, and settings of the optimiser that hold from now on, as options.
        as_new: What to put before the names of the classes, so that they are classes of their own.
        skip: Whether to go on without samples that cannot be read.

    Raises:
        UserError: If the run has requests left, or what is to be learned cannot be.
    """
    with directory.lock():
        directory.sweep()
        changes, rest = optimiser.apart(options)
        run = OpenRun.reopen(directory, changes=changes)
        run.check_finished()
        stream, described = scenario_of([*rest, *([SKIP] if skip else [])])
        look(stream, skip)
        words = ["--data.scenario", concealed(described, stream.class_names, receipts.run_key(directory.path))]
        words += [SKIP] if skip else []
        asked = {"learn": words, "data": stream.fingerprint()}
        spec = {**asked, "as_new": as_new} if as_new else asked
        longer = run.along(run.timeline.learning(spec, stream))
        try_inputs(longer.learner, longer.left)
        otherwise = "give --as_new PREFIX to learn it as a class of its own"
        learner, events, names = longer.learner, (s.event for s in longer.left), longer.timeline.class_names
        check_events(learner.model, learner.strategy, learner.unlearner, events, names, otherwise)
        longer.go_on()
    return longer

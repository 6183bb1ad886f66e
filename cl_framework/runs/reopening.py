"""Reopening of a run: its experiment and whole timeline, in the state of the last event."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from cl_framework.configuration.experiment import Experiment, build
from cl_framework.configuration.optimiser import apart
from cl_framework.configuration.parser import scenario_of
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.runs import feature_sharing, receipts, relocation
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.records import EventRecord
from cl_framework.storage.typed_records import RESTORE, typed
from cl_framework.streams import sample_list_file
from cl_framework.streams.later import Later
from cl_framework.streams.scenario import Scenario
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable

CHANGED = "changed"
"""Field of an event's record with the changed settings of the run."""


def manifest(experiment: Experiment) -> dict[str, Any]:
    """Return what determines a run's numbers: versions, hashes of weights and data, seeds."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "backbone": {
            "name": experiment.learner.model.backbone.name,
            "sha256": experiment.learner.model.backbone.digest(),
        },
        "data": experiment.scenario.fingerprint(),
        "seed": experiment.seed,
        "threads": torch.get_num_threads(),
        "trial": experiment.trial,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine numbers."""
    packages = ("cl-framework", "torch", "torchvision", "timm", "pytorch-lightning", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{p: _version(p) for p in packages}}


def changed(events: Sequence[EventRecord], run: Path) -> list[str]:
    """Return the options with which the last event of a run was carried out beside its config.

    Raises:
        UserError: If the record names others than those that may change.
    """
    if not events or CHANGED not in events[-1].state:
        return []
    place = run / events[-1].place
    words: list[str] = typed(events[-1].state[CHANGED], list[str], f"{place}, {CHANGED},")
    if apart(words)[1]:
        raise UserError(f"{place} is damaged at {CHANGED}: it changes other settings than the optimiser's; {RESTORE}.")
    return words


def opened(path: str | Path, relocate: Sequence[str] = ()) -> RunDirectory:
    """Open the run in a directory, after noting what it says of things that were moved.

    Args:
        path: The directory.
        relocate: What was moved, each ``OLD=NEW``.

    Raises:
        UserError: If there is no run, or what was moved is not there.
    """
    directory = RunDirectory.open(path)
    if relocate:
        with directory.lock():
            relocation.keep(directory.path, relocate)
    return directory


def experiment_of(directory: RunDirectory, overrides: Sequence[str] = (), changes: Sequence[str] = ()) -> Experiment:
    """Build a run's experiment again, in the state before its first event.

    Args:
        directory: The run.
        overrides: Options for this call only.
        changes: Settings of the optimiser that hold from now on, beside those with which the run went on last.

    Raises:
        UserError: If a file or the backbone's weights are not what they were.
    """
    _ = directory.config
    before = changed(directory.events(), directory.path)
    changes = before if before[len(before) - len(changes) :] == [*changes] else [*before, *changes]
    with relocation.config_of(directory.path, relocation.read_moves(directory.path)) as config:
        experiment = build(["--config", config, *changes, *overrides], CONSOLE)
    weights = directory.origin.backbone
    if weights.sha256 != experiment.learner.model.backbone.digest():
        raise UserError(f"{directory.path} was made with other backbone weights; bring back {weights.name} as it was.")
    return dataclasses.replace(experiment, changes=tuple(changes))


def timeline_of(directory: RunDirectory, first: Scenario, renew: bool = False) -> Timeline:
    """Return a run's whole stream, made of the run's list of samples; data without one are compared as a whole.

    Args:
        directory: The run.
        first: The scenario of its config.
        renew: Whether to look what is there of the samples: those that were never met are taken as they are now.

    Raises:
        UserError: If data without a list are not what they were.
    """
    events, moves = directory.events(), relocation.read_moves(directory.path)
    specs = _requests(directory, events)
    streams = [scenario_of(relocation.rewritten(s.learn, moves))[0] for s in specs if s.learn is not None]
    # Without the key a run can still predict, unless a request names samples: their hashes are then refused.
    key = receipts.run_key(directory.path) if (directory.path / receipts.KEY).exists() else None
    raw = directory.samples()
    sources = [] if raw is None else sample_list_file.decode_list(raw, directory.path / sample_list_file.FOLDER)
    data = [directory.origin.data, *(s.data for s in specs if s.learn is not None)]
    for scenario, was, source in zip_longest([first, *streams], data, sources):
        if source is not None:
            scenario.relist(relocation.relocate(source, directory.path, moves), key)
            for line in scenario.renew({e.name for e in events}).lines() if renew else ():
                CONSOLE.print(printable(line), soft_wrap=True, markup=False, highlight=False)
        elif events and was != scenario.fingerprint():
            raise UserError(f"The data behind {directory.path} have changed since; restore them, or start a new run.")
    return Timeline(first, specs, streams, key)


def restore_learner(directory: RunDirectory, experiment: Experiment) -> None:
    """Restore the learner's state after the run's last event, with its stored features.

    Raises:
        UserError: If a file is missing or was edited.
    """
    events = directory.events()
    if not events:
        return
    checkpoint.restore(experiment.learner, directory.state(), events[-1].state, directory.path / events[-1].place)
    store = experiment.learner.model.store
    store.folder = directory.path
    store.load({})
    alike = feature_sharing.passes_of(directory.config) == feature_sharing.passes_of(experiment.config)
    for part in directory.feature_parts() if alike else ():  # the command line may ask for another precision
        store.take(part)


def _requests(directory: RunDirectory, events: Sequence[EventRecord]) -> list[Later]:
    """Return the later requests in the records of events, in order.

    Raises:
        UserError: If a field of an event's record is of another type.
    """
    requests: dict[int, Later] = {}
    for event in events:
        place = directory.path / event.place
        typed(event.state, checkpoint.Facts, place)
        if "later" in event.state:
            number, request = typed(event.state["later"], tuple[int, Later], f"{place}, later,")
            requests[number] = request
    return [requests[i] for i in sorted(requests)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"

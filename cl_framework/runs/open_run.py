"""A run directory opened for work: the experiment behind it, its whole timeline, and going on from its last event."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from typing import Any

import msgspec
import torch

from cl_framework.configuration.experiment import Experiment, build, scenario_of
from cl_framework.engine import checkpoint, loop
from cl_framework.engine.tracking import tracked
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.runs import changed_settings, feature_sharing, receipts, relocation
from cl_framework.runs.directory import Run
from cl_framework.runs.manifest import MANIFEST
from cl_framework.runs.recorder import ReceiptDetails, RunRecorder
from cl_framework.runs.records import EventRecord
from cl_framework.storage.typed_records import Count, typed
from cl_framework.streams import sample_list, survey
from cl_framework.streams.identifiers import as_typed
from cl_framework.streams.sample_record import SampleRecord, listed
from cl_framework.streams.timeline import Later, Timeline
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable


def manifest(experiment: Experiment) -> dict[str, Any]:
    """Return what decides a run's numbers: versions, hashes of weights and data, seeds."""
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
    """Return the versions of Python and of the packages that decide numbers."""
    packages = ("cl-framework", "torch", "torchvision", "timm", "pytorch-lightning", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{p: _version(p) for p in packages}}


class Weights(msgspec.Struct, frozen=True):
    """The backbone that a run was made with."""

    name: str
    sha256: str


class Origin(msgspec.Struct, frozen=True):
    """What a manifest tells of the experiment behind a run, as `manifest` wrote it."""

    backbone: Weights
    data: str
    seed: int
    versions: dict[str, str]
    platform: str
    threads: Count | None = None
    trial: str | None = None


def _requests(directory: Run, events: Sequence[EventRecord]) -> list[dict[str, Any]]:
    """Return the later requests that events speak of, in order.

    Raises:
        UserError: If a field of an event's record is of another type.
    """
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        place = directory.path / event.place
        typed(event.state, checkpoint.Facts, place)
        if "later" in event.state:
            typed(event.state["later"], tuple[int, Later], f"{place}, later,")
            number, spec = event.state["later"]
            found[number] = spec
    return [found[i] for i in sorted(found)]


def reopen(
    directory: Run, overrides: Sequence[str] = (), changes: Sequence[str] = (), renew: bool = False
) -> tuple[Experiment, Timeline]:
    """Build a run's experiment again and put its learner into the state of the last event.

    The stream is rebuilt from the run's list of samples. Data without one are compared as a whole.

    Args:
        directory: The run.
        overrides: Options that hold for this time only.
        changes: Settings of the optimiser that hold from now on, beside those with which the run went on last.
        renew: Whether to look what is there of the samples: those that were never met are taken as they are now.

    Raises:
        UserError: If a file, the backbone's weights, or data without a list are not what they were.
    """
    _ = directory.config
    before = changed_settings.changed(directory.events(), directory.path)
    changes = before if before[len(before) - len(changes) :] == [*changes] else [*before, *changes]
    moves = relocation.read(directory.path)
    with relocation.config_of(directory.path, moves) as config:
        experiment = build(["--config", config, *changes, *overrides], CONSOLE)
    experiment = dataclasses.replace(experiment, changes=tuple(changes))
    told = typed(directory.manifest, Origin, directory.path / MANIFEST)
    if told.backbone.sha256 != experiment.learner.model.backbone.digest():
        raise UserError(
            f"{directory.path} was made with other backbone weights; bring back {told.backbone.name} as it was."
        )
    events = directory.events()
    specs = _requests(directory, events)
    streams = [scenario_of(relocation.rewritten(s["learn"], moves))[0] for s in specs if "learn" in s]
    # Who deleted the key can still predict, unless a request names samples: those hashes are then refused.
    key = receipts.run_key(directory.path) if (directory.path / receipts.KEY).exists() else None
    raw = directory.samples()
    sources = [] if raw is None else sample_list.decode(raw, directory.path / sample_list.FOLDER)
    data = [told.data, *(s["data"] for s in specs if "learn" in s)]
    for scenario, was, source in zip_longest([experiment.scenario, *streams], data, sources):
        if source is not None:
            scenario.relist(relocation.located(source, directory.path, moves), key)
            for line in scenario.renew({e.name for e in events}).lines() if renew else ():
                CONSOLE.print(printable(line), soft_wrap=True, markup=False, highlight=False)
        elif events and was != scenario.fingerprint():
            raise UserError(f"The data behind {directory.path} have changed since; restore them, or start a new run.")
    timeline = Timeline(experiment.scenario, specs, streams, key)
    if events:
        checkpoint.restore(experiment.learner, directory.state(), events[-1].state, directory.path / events[-1].place)
        store = experiment.learner.model.store
        store.folder = directory.path
        store.load({})
        alike = feature_sharing.passes_of(directory.config) == feature_sharing.passes_of(experiment.config)
        for part in directory.feature_parts() if alike else ():  # `overrides` may ask for another precision
            store.take(part)
    return experiment, timeline


def check_finished(directory: Run, timeline: Timeline) -> None:
    """Refuse a run that has requests left.

    Raises:
        UserError: If it has.
    """
    if len(directory.events()) < len(list(timeline.steps())):
        raise UserError(f"{directory.path} is not finished; `clf resume {directory.path}` first.")


def opened(args: Namespace) -> Run:
    """Open the run that a command line names, after noting what it says of things that were moved.

    Raises:
        UserError: If there is none, or what was moved is not there.
    """
    directory = Run.open(args.dir)
    if args.relocate:
        with directory.lock():
            relocation.keep(directory.path, args.relocate)
    return directory


def samples_of(directory: Run, timeline: Timeline) -> SampleRecord:
    """Return the run's list of samples; what it does not tell of yet is listed now, and files are read for that."""
    raw = directory.samples()
    if raw is None and directory.events():
        return SampleRecord(())
    kept = sample_list.decode(raw, directory.path / sample_list.FOLDER) if raw is not None else []
    streams = [timeline.first, *timeline.streams]
    with survey.Bar(CONSOLE) as bar:
        sources = [s.listing(bar) if told is not None else None for s, told in zip(streams, kept, strict=False)]
        record = SampleRecord([*sources, *(listed(s, bar) for s in streams[len(kept) :])], raw, timeline.key)
    record.place(timeline)
    for source in filter(None, record.sources):
        relocation.beside(source, directory.path)
    return record


def recorder_of(
    directory: Run,
    experiment: Experiment,
    timeline: Timeline,
    details: ReceiptDetails | None = None,
    samples: SampleRecord | None = None,
) -> RunRecorder:
    """Return the run's recorder, open where it ends."""
    lasting = {changed_settings.NOTE: list(experiment.changes)} if experiment.changes else {}
    notes = [lasting if i < 0 else {"later": [i, timeline.later[i]], **lasting} for i, _ in timeline.marked()]
    told = details or ReceiptDetails()
    data = [directory.manifest["data"], *(s["data"] for s in timeline.later if "data" in s)]
    told = dataclasses.replace(told, facts={"data": data, "versions": versions()})
    learner, names = experiment.learner, timeline.class_names
    return RunRecorder(directory, learner, names, CONSOLE, experiment.bar, len(notes), notes, told, samples)


def go_on(directory: Run, experiment: Experiment, timeline: Timeline, details: ReceiptDetails | None = None) -> None:
    """Carry out what of the timeline is not done yet, and say where to look."""
    samples = samples_of(directory, timeline)
    recorder, told = recorder_of(directory, experiment, timeline, details, samples), receipts.last(directory.path)
    if warning := other_threads(directory):
        CONSOLE.print(warning, soft_wrap=True)
    store = experiment.learner.model.store
    store.folder = directory.path
    weights = directory.manifest["backbone"]["sha256"]
    store.lender = feature_sharing.shared_features(experiment, weights, timeline, bool(recorder.records))
    evaluator = Evaluator(experiment.learner.strategy.isolates == "experience")
    learner, size, share = experiment.learner, experiment.batch_size, experiment.validation
    with tracked(recorder, learner, experiment.loggers, directory.config) as journal:
        loop.run(learner, timeline, experiment.make_trainer, evaluator, journal, size, recorder.measurements, share)
    figure = recorder.close()
    CONSOLE.print(f"figure   {figure}", soft_wrap=True)
    CONSOLE.print(f"results  {directory.path / 'results.json'}", soft_wrap=True)
    if (kept := receipts.last(directory.path)) != told:
        CONSOLE.print(
            f"receipt  {kept}\n         Keep this hash elsewhere: `clf verify DIR --last HASH` refuses older copies."
        )
    if experiment.trial:
        CONSOLE.print(f"note     {experiment.trial}: the code was tried, these numbers are no result", soft_wrap=True)
    alive, where = experiment.learner.model.classes, shlex.quote(str(directory.path))
    word = as_typed(alive[0], timeline.class_names, alive) if alive else ""
    verb = f"forget {where} --classes {word}" if alive else f"verify {where}"
    CONSOLE.print(f"next     clf {verb}", soft_wrap=True)


def other_threads(directory: Run) -> str | None:
    """Say that this process has another number of CPU threads than the run had so far; None when it has the same."""
    events, now = directory.events(), torch.get_num_threads()
    told = events[-1].state.get("threads") if events else directory.manifest.get("threads")
    if told is None or told == now:
        return None
    return (
        f"{directory.path} was made with {told} CPU threads so far and goes on with {now}: the last bits of new "
        f"numbers may differ from those of a run that was not interrupted; CLF_THREADS={told} keeps them equal."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"

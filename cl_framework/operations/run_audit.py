"""Audit a run: weigh what it has forgotten against models that never knew it and models that never forgot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from rich.text import Text

from cl_framework.auditing import verdict
from cl_framework.auditing.attacks import reachable
from cl_framework.auditing.audit import References, conduct, references
from cl_framework.auditing.reference_models import ReferenceTrainer
from cl_framework.auditing.shadow_models import shadow_attack
from cl_framework.auditing.subjects import Subject, subject
from cl_framework.configuration.experiment import build
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.evaluation.results import results
from cl_framework.runs import derived_files, receipts, relocation
from cl_framework.runs.contents import event_results
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.records import EventRecord
from cl_framework.settings import ranges
from cl_framework.storage import files
from cl_framework.streams.events import Experience
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable

_SCHEMA = 1
AUDIT_FILE = "audit.json"
QUIETLY = ("--trainer.logger", "false", "--trainer.enable_checkpointing", "false")
"""Overrides for the models that are trained for an audit."""
RECORD = (
    "accuracy_forget_before", "accuracy_forget", "accuracy_unseen", "h_mean", "h_mean_pre", "relapse", "erosion",
    "spillover",
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What an audit looks at, and beside which models.

    Attributes:
        request: One forget request; all of them if None.
        original: A run that forgot nothing, instead of training one.
        retrained: A run that only met what remains, instead of training the first one.
        seeds: How many retrained models.
        shadows: How many shadow models for U-LiRA.
        relearn: Whether to measure how fast it is learned again.
        fast: Whether to leave out reference models that must be trained.
    """

    request: str | None = None
    original: Path | None = None
    retrained: Path | None = None
    seeds: int = 2
    shadows: int = 0
    relearn: bool = True
    fast: bool = False

    @property
    def references(self) -> int:
        """How many retrained models there are."""
        return 0 if self.fast else max(self.seeds, 1)


def audit_run(directory: RunDirectory, options: AuditOptions) -> dict[str, Any]:
    """Audit a run, and write ``audit.json``; docs/audit.md lists what it holds.

    Args:
        directory: The run.
        options: What to look at, and beside which models.

    Returns:
        What ``audit.json`` holds.

    Raises:
        UserError: If the run has forgotten nothing, or changes while it is audited.
    """
    opened_run = OpenRun.reopen(directory, QUIETLY)
    experiment, events, run = opened_run.experiment, directory.events(), opened_run.learner
    about = subject(opened_run.steps[: len(events)], options.request)
    about, lost = reachable(about, _learning(about, options))
    if options.shadows:
        _check_method(directory, run, about)
    if lost:
        CONSOLE.print(f"{lost} of the samples to ask the model about are gone: the audit leaves them out.")
    workshop = _workshop(opened_run)
    run.to(experiment.make_trainer(None).strategy.root_device)
    models = _references(directory, workshop, about, run.model.seed, options)
    metrics = conduct(run, about, workshop, models, options.relearn)
    report = {
        "schema": _SCHEMA,
        "after_events": len(events),
        "requests": list(about.requests),
        "classes_vanished": len(about.vanished),
        "samples_forgotten": len(about.gone),
        "strategy": type(run.strategy).__name__,
        "seed": run.model.seed,
        "metrics": metrics,
        "conclusions": [asdict(c) for c in verdict.conclusions(metrics, single=not about.vanished)],
        "u_lira": shadow_attack(run, about, workshop, options.shadows) if options.shadows else None,
        "record": _record(directory, opened_run.timeline, about),
    }
    _keep(directory, report, events)
    return report


def _workshop(run: OpenRun) -> ReferenceTrainer:
    """Return what trains reference models as the run was trained."""
    directory, experiment, moves = run.directory, run.experiment, relocation.read_moves(run.path)

    def say(what: str) -> None:
        what = printable(what)
        experiment.bar.label = f"    {what}"
        CONSOLE.print(Text(what, "dim"))

    def anew() -> Learner:
        with relocation.config_of(directory.path, moves) as config:
            return build(["--config", config, *experiment.changes, *QUIETLY], CONSOLE).learner

    return ReferenceTrainer(anew, experiment.make_trainer, experiment.batch_size, say, run.learner.model.store)


def _references(
    directory: RunDirectory, workshop: ReferenceTrainer, about: Subject, seed: int, options: AuditOptions
) -> References:
    """Return the models to compare with: trained when they are asked for, or other runs where those are given."""
    models = references(workshop, about, seed, options.references)
    if original := options.original:
        models = References(lambda: _given(directory, original, set(about.vanished)), models.retrained)
    if retrained := options.retrained:
        alive = {c for e in about.remaining for c in e.classes}
        first = lambda: _given(directory, retrained, alive, exactly=True)  # noqa: E731
        models = References(models.original, (first, *models.retrained[1:]))
    return models


def _keep(directory: RunDirectory, report: dict[str, Any], events: Sequence[EventRecord]) -> None:
    """Write ``audit.json``, if the run is still as it was."""
    with directory.lock():
        if [e.folder for e in directory.events()] != [e.folder for e in events]:
            raise UserError(f"{directory.path} changed while it was audited; run `clf audit {directory.path}` again.")
        derived_files.drop(directory.path, [AUDIT_FILE])  # killed in between, `clf verify` asks for the audit again
        files.replace(directory.path / AUDIT_FILE, files.encode_json(report))
        derived_files.add(directory.path, [AUDIT_FILE], len(events))


def _learning(about: Subject, options: AuditOptions) -> list[Experience]:
    """Return what models that are trained for the audit learn from."""
    every, seeds = bool(options.shadows), options.references
    original, retrained = bool(seeds) and not options.original, seeds > 1 or (seeds == 1 and not options.retrained)
    return [*(about.learned if every or original else ()), *(about.remaining if every or retrained else ())]


def _record(directory: RunDirectory, timeline: Timeline, about: Subject) -> list[dict[str, Any]]:
    """Return what the run itself wrote down about the requests: what they cost, and whether it lasted."""
    records = event_results(directory)
    learned = [(r.measurements.event, r.measurements.classes) for r in records if r.measurements.kind == "learn"]
    told = {f["event"]: f for f in results("", learned, records, timeline.class_names)["forget"]}
    rows = []
    for i, r in enumerate(records):
        if r.measurements.event in about.requests and r.measurements.event in told:
            removed = records[i - 1].stored_bytes - r.stored_bytes if i else None
            row = {name: told[r.measurements.event][name] for name in RECORD}
            rows.append({"request": r.measurements.event, **row, "seconds": r.seconds, "bytes_removed": removed})
    return rows


def _check_method(directory: RunDirectory, run: Learner, about: Subject) -> None:
    """Make sure that shadow models forget as the run did: with the unlearner of its config.

    Raises:
        UserError: If a request was carried out by another one, or with other settings.
    """
    mine = run.unlearner and (type(run.unlearner).__name__, ranges.settings_of(run.unlearner))
    for receipt in (line.receipt for line in receipts.whole(directory.path)):
        settings = receipt.settings and receipt.settings.values
        if receipt.request in about.requests and (receipt.method, settings) != mine:
            raise UserError(
                f"Shadow models forget as the config says, and {receipt.request} was carried out by {receipt.method} "
                "with an unlearner or settings of its own; leave out --shadows."
            )


def _given(directory: RunDirectory, other: Path, classes: set[int], exactly: bool = False) -> Learner:
    """Open another run as a reference.

    Raises:
        UserError: If it has another backbone, other data or other classes.
    """
    run = RunDirectory.open(other)
    for what in ("backbone", "data"):
        if getattr(run.manifest, what) != getattr(directory.manifest, what):
            raise UserError(f"{other} has another {what} than {directory.path}; give a run of the same kind.")
    learner = OpenRun.reopen(run).learner
    known = set(learner.model.classes)
    if known != classes if exactly else not classes <= known:
        raise UserError(
            f"{other} knows {len(known)} classes, not {'just' if exactly else 'all of'} the {len(classes)} that it "
            "must know here; leave it out to have this reference trained."
        )
    return learner

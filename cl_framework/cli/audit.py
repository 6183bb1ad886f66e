"""``clf audit``: compare a run with models that never met the forget set and models that never forgot it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from cl_framework.auditing import verdict
from cl_framework.auditing.attacks import reachable
from cl_framework.auditing.audit import References, conduct, references
from cl_framework.auditing.reference_models import Workshop
from cl_framework.auditing.shadow_models import shadow_attack
from cl_framework.auditing.subjects import Subject, subject
from cl_framework.cli import arguments
from cl_framework.configuration.experiment import build
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.evaluation.results import results
from cl_framework.runs import derived_files, receipts, relocation
from cl_framework.runs.contents import event_results
from cl_framework.runs.directory import Run
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.reopening import opened
from cl_framework.settings import ranges
from cl_framework.storage import files
from cl_framework.streams.events import Experience
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal import grid
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable

_SCHEMA = 1
_PLACE = "audit.json"
RECORD = (
    "accuracy_forget_before", "accuracy_forget", "accuracy_unseen", "h_mean", "h_mean_pre", "relapse", "erosion",
    "spillover",
)  # fmt: skip


def audit(argv: Sequence[str]) -> int:
    """Carry out ``clf audit``."""
    args = arguments.parse("audit", argv)
    quietly = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    opened_run = OpenRun.reopen(opened(args.dir, args.relocate), quietly)
    directory, experiment, timeline = opened_run.directory, opened_run.experiment, opened_run.timeline
    events = directory.events()
    about = subject(opened_run.steps[: len(events)], args.request)
    about, lost = reachable(about, _learning(args, about))
    if args.shadows:
        _check_method(directory, experiment.learner, about)
    if lost:
        CONSOLE.print(f"{lost} of the samples that the model would be asked about are gone: it goes without them.")
    run, moves = experiment.learner, relocation.read_moves(directory.path)

    def say(label: str) -> None:
        label = printable(label)
        experiment.bar.label = f"    {label}"
        CONSOLE.print(Text(label, "dim"))

    def anew() -> Learner:
        with relocation.config_of(directory.path, moves) as config:
            return build(["--config", config, *experiment.changes, *quietly], CONSOLE).learner

    workshop = Workshop(anew, experiment.make_trainer, experiment.batch_size, say, run.model.store)
    run.to(experiment.make_trainer(None).strategy.root_device)
    reference_learners = references(workshop, about, run.model.seed, 0 if args.fast else max(args.seeds, 1))
    if args.original:
        reference_learners = References(
            lambda: _given(directory, args.original, set(about.vanished)), reference_learners.retrained
        )
    if args.retrained:
        alive = {c for e in about.remaining for c in e.classes}
        first = lambda: _given(directory, args.retrained, alive, exactly=True)  # noqa: E731
        reference_learners = References(reference_learners.original, (first, *reference_learners.retrained[1:]))
    metrics = conduct(run, about, workshop, reference_learners, not args.no_relearn)
    concluded = verdict.conclusions(metrics, single=not about.vanished)
    report = {
        "schema": _SCHEMA,
        "after_events": len(events),
        "requests": list(about.requests),
        "classes_vanished": len(about.vanished),
        "samples_forgotten": len(about.gone),
        "strategy": type(run.strategy).__name__,
        "seed": run.model.seed,
        "metrics": metrics,
        "conclusions": [asdict(c) for c in concluded],
        "u_lira": shadow_attack(run, about, workshop, args.shadows) if args.shadows else None,
        "record": _record(directory, timeline, about),
    }
    with directory.lock():
        if [e.folder for e in directory.events()] != [e.folder for e in events]:
            raise UserError(f"{directory.path} went on while it was audited; run `clf audit {directory.path}` again.")
        derived_files.drop(directory.path, [_PLACE])  # killed in between, `clf verify` asks for the audit again
        files.replace(directory.path / _PLACE, files.encode_json(report))
        derived_files.add(directory.path, [_PLACE], len(events))
    for heads, rows in tables(report):
        grid.print_table(CONSOLE, heads, rows)
    for line in verdict.verdict_lines(concluded):
        CONSOLE.print(line, soft_wrap=not CONSOLE.is_terminal)
    CONSOLE.print(f"audit    {directory.path / _PLACE}", soft_wrap=True)
    return 0


def _learning(args: Namespace, about: Subject) -> list[Experience]:
    """Return the training samples of models of the audit."""
    every, seeds = bool(args.shadows), 0 if args.fast else max(args.seeds, 1)
    original, retrained = bool(seeds) and not args.original, seeds > 1 or (seeds == 1 and not args.retrained)
    return [*(about.learned if every or original else ()), *(about.remaining if every or retrained else ())]


def _record(directory: Run, timeline: Timeline, about: Subject) -> list[dict[str, Any]]:
    """Return the run's own records of the requests: cost, and relapse."""
    records = event_results(directory)
    learned = [(r.measurements.event, r.measurements.classes) for r in records if r.measurements.kind == "learn"]
    by_request = {f["event"]: f for f in results("", learned, records, timeline.class_names)["forget"]}
    rows = []
    for i, r in enumerate(records):
        if r.measurements.event in about.requests and r.measurements.event in by_request:
            removed = records[i - 1].stored_bytes - r.stored_bytes if i else None
            row = {name: by_request[r.measurements.event][name] for name in RECORD}
            rows.append({"request": r.measurements.event, **row, "seconds": r.seconds, "bytes_removed": removed})
    return rows


def _check_method(directory: Run, run: Learner, about: Subject) -> None:
    """Require that shadow models forget as the run did: with the unlearner of its config.

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


def _given(directory: Run, other: Path, classes: set[int], exactly: bool = False) -> Learner:
    """Open another run as a reference.

    Raises:
        UserError: If it has another backbone, other data or other classes.
    """
    run = Run.open(other)
    for kind in ("backbone", "data"):
        if getattr(run.manifest, kind) != getattr(directory.manifest, kind):
            raise UserError(f"{other} has another {kind} than {directory.path}; give a run of the same kind.")
    learner = OpenRun.reopen(run).learner
    known = set(learner.model.classes)
    if known != classes if exactly else not classes <= known:
        raise UserError(
            f"{other} knows {len(known)} classes, not {'just' if exactly else 'all of'} the {len(classes)} that it "
            "must know here; leave it out to have this reference trained."
        )
    return learner


def tables(report: Mapping[str, Any]) -> list[tuple[list[str], list[list[grid.TableCell]]]]:
    """Return heads and rows of what is shown: metrics by model, then what the run recorded, then U-LiRA."""
    models = list(next(iter(report["metrics"].values())))
    metrics: list[list[grid.TableCell]] = [
        [metric, *((cell(values[m]), "bold" if m == "run" else "") for m in models)]
        for metric, values in report["metrics"].items()
    ]
    shown = [(["metric", *(m.replace("retrained_", "seed ") for m in models)], metrics)]
    if record := report["record"]:
        rows: list[list[grid.TableCell]] = [
            [name, *(cell(row[name]) for row in record)] for name in list(record[0])[1:]
        ]
        shown.append((["request", *(printable(row["request"]) for row in record)], rows))
    if attack := report["u_lira"]:
        shown.append((["shadow models", ""], [[name, cell(value)] for name, value in attack.items()]))
    return shown


def cell(value: float | None) -> str:
    """Return a number for a table, a dash for None.

    >>> cell(0.12345), cell(3), cell(None)
    ('0.123', '3', '-')
    """
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"

"""Verbs that read a model and change nothing: evaluate, predict, plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.text import Text

from cl_framework.cli import arguments
from cl_framework.cli.run import _examined, _say, prepared
from cl_framework.errors import UserError, some_of
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.feature_cache.store import FeatureStore
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.reopening import opened
from cl_framework.streams.events import Experience
from cl_framework.streams.identifiers import called
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.terminal import grid
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate every exam again and compare with the results."""
    args = arguments.parse("evaluate", argv)
    run = OpenRun.reopen(opened(args.dir, args.relocate))
    if args.data:
        return _examined(run, args.data)
    recorder = run.recorder()
    if not recorder.records:
        raise UserError(f"{run.path} has no event yet; `clf resume {run.path}` begins.")
    learner, names = run.learner, run.timeline.class_names
    evaluator = Evaluator(learner.strategy.isolates == "experience")
    steps = run.steps[: len(recorder.records)]
    for step, measurements in zip(steps, recorder.measurements, strict=True):
        evaluator.restore(step, measurements)
    model, last = learner.model, recorder.measurements[-1]
    model.store = FeatureStore()  # compute every feature again: stored ones would agree with themselves
    again = evaluator.hits(learner.answer)
    same, asked, recorded = again == last.hits, *(sum(n for _, n in hits.values()) for hits in (again, last.hits))
    exams = [s.exam.of(model.classes) for s in steps if isinstance(s.event, Experience)] if asked < recorded else []
    lost = [name for exam in exams for name in exam.absent()]
    if recorded and not asked:
        raise UserError(
            f"None of the {recorded} test samples of {run.path} is there any more ({some_of(lost)}); say where they "
            "are (--relocate OLD=NEW), or examine it on others (--data DATA)."
        )
    rows = [(called(c, names), str(right), str(total), f"{right / total:.3f}") for c, (right, total) in again.items()]
    title = printable(f"{run.path} after {last.event}")
    grid.print_table(CONSOLE, ("class", "right", "of", "accuracy"), rows, title=title)
    if asked < recorded:
        message = f"{recorded - asked} of {recorded} test samples are gone: nothing is compared with the record. Gone: "
        CONSOLE.print(Text(printable(message + some_of(lost))), soft_wrap=True)
        return 0
    CONSOLE.print(
        f"{len(model.classes)} live classes; "
        + ("agrees with the recorded results" if same else "DIFFERS from the record")
    )
    return 0 if same else 1


def predict(argv: Sequence[str]) -> int:
    """Predict the classes of files."""
    args = arguments.parse("predict", argv)
    run = OpenRun.reopen(opened(args.dir, args.relocate))
    learner, timeline = run.learner, run.timeline
    x = timeline.first.read(args.files)
    if not learner.model.classes:
        raise UserError(f"{run.path} knows no class; learn some first.")
    with torch.no_grad():
        scores = learner(Inputs(lambda: x, torch.arange(len(x))))
    rows = []
    for file, row in zip(args.files, scores, strict=True):
        best = row.topk(min(args.top, len(row)))
        names = [printable(timeline.class_names[learner.model.classes[i]]) for i in best.indices.tolist()]
        files = [printable(file), *[""] * len(names)]  # said once, beside its likeliest class
        rows += [(f, n, f"{v:.3f}") for f, n, v in zip(files, names, best.values.tolist(), strict=False)]
    grid.print_table(CONSOLE, ("file", "class", "score"), rows, texts=2)
    return 0


def plan(argv: Sequence[str]) -> int:
    """Print what a config would do, without doing it."""
    experiment, timeline = prepared(argv)
    learner, names = experiment.learner, experiment.scenario.class_names
    rows = []
    for step in timeline.steps():
        event = step.event
        shown = ", ".join(printable(names[c]) for c in event.classes[:8]) + (" ..." if len(event.classes) > 8 else "")
        kind, nobody = ("learn", "nothing new") if isinstance(event, Experience) else ("forget", "single samples")
        counts = f"{len(event.data):,}", f"{len(step.exam):,}" if len(step.exam) else "none"
        rows.append((printable(event.name), kind, shown or nobody, *counts))
    heads = ("request", "kind", "classes", "train samples", "exam samples")
    grid.print_table(CONSOLE, heads, rows, texts=3, title="the stream")
    bank = learner.model.adapters
    backbone, name = learner.model.backbone, type(bank.adapter).__name__
    CONSOLE.print(f"{backbone.name}: width {backbone.width}, frozen")
    _say(line for line in (*backbone.notes, backbone.inputs) if line)
    if bank.lacking:
        CONSOLE.print(f"{name}: no place in this backbone, and {type(learner.strategy).__name__} needs none")
    else:
        size, roles = sum(p.numel() for p in bank.add("one")), sorted({s.role for s in bank.sites.values()})
        CONSOLE.print(f"{name}: {len(bank.sites)} sites ({', '.join(roles)}), {size:,} parameters")
    CONSOLE.print(f"{type(learner.strategy).__name__} learns, {type(learner.unlearner).__name__} forgets")
    return 0

"""Verbs that read a model and change nothing: evaluate, predict, plan."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from cl_framework.cli import arguments
from cl_framework.cli.run import prepared
from cl_framework.operations import queries
from cl_framework.operations.preparation import print_lines
from cl_framework.operations.queries import Evaluation
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.reopening import opened
from cl_framework.streams.events import Experience
from cl_framework.terminal import grid
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable


def evaluate(argv: Sequence[str]) -> int:
    """Open every exam again and say whether the results still hold; or examine a run on other data."""
    args = arguments.parse("evaluate", argv)
    run = OpenRun.reopen(opened(args.dir, args.relocate))
    if args.data:
        _show_examined(queries.evaluate_on(run, args.data), f"{run.path} on {args.data}")
        return 0
    evaluation = queries.evaluate_run(run)
    _show_hits(evaluation, f"{run.path} after {run.directory.events()[-1].name}")
    if evaluation.agrees is None:
        of = f"{evaluation.missing} of {evaluation.missing + evaluation.total}"
        text = f"{of} test samples are gone: nothing is compared with the record. Gone: {evaluation.gone}"
        CONSOLE.print(Text(printable(text)), soft_wrap=True)
        return 0
    agreement = "agrees with the recorded results" if evaluation.agrees else "DIFFERS from the record"
    CONSOLE.print(f"{len(run.learner.model.classes)} live classes; {agreement}")
    return 0 if evaluation.agrees else 1


def _show_hits(evaluation: Evaluation, title: str) -> None:
    """Print how many samples of each class were answered rightly."""
    rows = [
        (printable(evaluation.class_names[c]), str(right), str(total), f"{right / total:.3f}")
        for c, (right, total) in evaluation.hits.items()
    ]
    grid.print_table(CONSOLE, ("class", "right", "of", "accuracy"), rows, title=printable(title))


def _show_examined(evaluation: Evaluation, title: str) -> None:
    """Print how a run answers other data, and which samples of theirs it cannot be asked about."""
    _show_hits(evaluation, title)
    CONSOLE.print(f"accuracy {evaluation.accuracy:.3f}: {evaluation.right} of {evaluation.total} samples")
    if others := evaluation.unknown:
        shown = ", ".join(map(printable, sorted(others)[:5])) + (", ..." if len(others) > 5 else "")
        text = f"left out {sum(others.values())} samples of classes that the run does not know: {shown}"
        CONSOLE.print(text, soft_wrap=True, markup=False, highlight=False)


def predict(argv: Sequence[str]) -> int:
    """Predict the classes of files."""
    args = arguments.parse("predict", argv)
    run = OpenRun.reopen(opened(args.dir, args.relocate))
    prediction = queries.predict_inputs(run, run.timeline.first.read(args.files))
    rows = []
    for file, best in zip(args.files, prediction.top(args.top), strict=True):
        files = [printable(file), *[""] * len(best)]  # said once, beside its likeliest class
        rows += [(f, printable(name), f"{v:.3f}") for f, (name, v) in zip(files, best, strict=False)]
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
    print_lines(line for line in (*backbone.notes, backbone.inputs) if line)
    if bank.lacking:
        CONSOLE.print(f"{name}: no place in this backbone, and {type(learner.strategy).__name__} needs none")
    else:
        size, roles = sum(p.numel() for p in bank.add("one")), sorted({s.role for s in bank.sites.values()})
        CONSOLE.print(f"{name}: {len(bank.sites)} sites ({', '.join(roles)}), {size:,} parameters")
    CONSOLE.print(f"{type(learner.strategy).__name__} learns, {type(learner.unlearner).__name__} forgets")
    return 0

"""The verbs that need a model: run, resume, learn, evaluate, predict, plan; `forgetting` has those that forget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from rich.text import Text

from cl_framework import arguments, grid, optimiser, receipts, relocation, sharing, shipped, survey, upkeep
from cl_framework.console import CONSOLE
from cl_framework.errors import UserError, some_of
from cl_framework.evaluator import Evaluator, hits_of
from cl_framework.experiment import SKIP, Experiment, build, scenario_of
from cl_framework.features import FeatureStore
from cl_framework.naming import called, concealed
from cl_framework.opening import check_finished, diary_of, go_on, manifest, opened, reopen
from cl_framework.printable import printable
from cl_framework.rivals import doubts
from cl_framework.run import Run
from cl_framework.stream import Experience, Inputs, Scenario, Step
from cl_framework.timeline import Timeline


def run(argv: Sequence[str]) -> int:
    """Carry out a config from the first event to the last."""
    argv = shipped.with_paths(argv)
    experiment, steps = prepared(argv)
    path = Path(experiment.run_dir) if experiment.run_dir else _free(Path("runs"), _title(argv))
    key = receipts.new_key()
    config = concealed(relocation.absolute(experiment.config), experiment.scenario.class_names, key)
    directory = Run.create(path, config, manifest(experiment), key)
    CONSOLE.print(f"{len(steps)} request{'s'[: len(steps) != 1]} -> {path}", soft_wrap=True)
    _say(experiment.learner.model.backbone.notes)
    with directory.lock():
        try:
            go_on(directory, experiment, Timeline(experiment.scenario, key=key))
        except Exception:  # with nothing committed there is nothing to resume, and the same mistake would come again
            upkeep.discard(directory.path)
            raise
    return 0


def resume(argv: Sequence[str]) -> int:
    """Go on where a run was stopped."""
    args = arguments.parse("resume", argv)
    directory = opened(args)
    with directory.lock():
        directory.sweep()
        experiment, timeline = reopen(directory, changes=args.rest, renew=True)
        whole = len(list(timeline.steps()))
        CONSOLE.print(f"{whole - len(directory.events())} of {whole} requests left -> {directory.path}", soft_wrap=True)
        go_on(directory, experiment, timeline)
    return 0


def learn(argv: Sequence[str]) -> int:
    """Learn more on a finished run."""
    args = arguments.parse("learn", argv)
    directory = opened(args)
    with directory.lock():
        directory.sweep()
        changes, rest = optimiser.apart(args.rest)
        experiment, timeline = reopen(directory, changes=changes)
        check_finished(directory, timeline)
        stream, described = scenario_of([*rest, *([SKIP] if args.skip_unreadable else [])])
        _look(stream, args.skip_unreadable)
        told = ["--data.scenario", concealed(described, stream.class_names, receipts.run_key(directory.path))]
        told += [SKIP] if args.skip_unreadable else []
        asked = {"learn": told, "data": stream.fingerprint()}
        later = [*timeline.later, {**asked, "as_new": args.as_new} if args.as_new else asked]
        longer = Timeline(timeline.first, later, [*timeline.streams, stream], timeline.key).settled()
        coming = list(longer.steps())[len(directory.events()) :]
        _try(experiment, coming)
        otherwise = "give --as_new PREFIX to learn it as a class of its own"
        experiment.learner.foresee((s.event for s in coming), longer.class_names, otherwise)
        go_on(directory, experiment, longer)
    return 0


def evaluate(argv: Sequence[str]) -> int:
    """Open every exam again and say whether the results still hold."""
    args = arguments.parse("evaluate", argv)
    directory = opened(args)
    experiment, timeline = reopen(directory)
    if args.data:
        return _examined(directory, experiment, timeline, args.data)
    diary = diary_of(directory, experiment, timeline)
    if not diary.records:
        raise UserError(f"{directory.path} has no event yet; `clf resume {directory.path}` begins.")
    evaluator = Evaluator(experiment.learner.strategy.isolates == "experience")
    steps = list(timeline.steps())[: len(diary.records)]
    for step, marks in zip(steps, diary.marks, strict=True):
        evaluator.restore(step, marks)
    model, last = experiment.learner.model, diary.marks[-1]
    model.store = FeatureStore()  # compute every feature again: stored ones would agree with themselves
    again = evaluator.hits(experiment.learner.answer)
    same, asked, told = again == last.hits, *(sum(n for _, n in hits.values()) for hits in (again, last.hits))
    exams = [s.exam.of(model.classes) for s in steps if isinstance(s.event, Experience)] if asked < told else []
    lost = [name for exam in exams for name in exam.absent()]
    if told and not asked:
        raise UserError(
            f"None of the {told} test samples of {directory.path} is there any more ({some_of(lost)}); say where they "
            "are (--relocate OLD=NEW), or examine it on others (--data DATA)."
        )
    rows = [
        (called(c, timeline.class_names), str(right), str(total), f"{right / total:.3f}")
        for c, (right, total) in again.items()
    ]
    title = printable(f"{directory.path} after {last.event}")
    grid.show(CONSOLE, ("class", "right", "of", "accuracy"), rows, title=title)
    if asked < told:
        what = f"{told - asked} of {told} test samples are gone: nothing is compared with the record. Gone: "
        CONSOLE.print(Text(printable(what + some_of(lost))), soft_wrap=True)
        return 0
    CONSOLE.print(
        f"{len(model.classes)} live classes; "
        + ("agrees with the recorded results" if same else "DIFFERS from the record")
    )
    return 0 if same else 1


def _examined(directory: Run, experiment: Experiment, timeline: Timeline, data: str) -> int:
    """Examine a run on other data, and say which samples of theirs it cannot be asked about."""
    learner = experiment.learner
    learner.to(experiment.make_trainer(None).strategy.root_device)
    exam, others = timeline.first.exam(data, {timeline.class_names[c]: c for c in learner.model.classes})
    if not len(exam):
        known = ", ".join(timeline.class_names[c] for c in learner.model.classes[:5])
        raise UserError(f"{data} holds no sample of a class that {directory.path} knows, such as {known}.")
    hits = hits_of(exam, learner.answer)
    rows = [
        (printable(timeline.class_names[c]), str(right), str(total), f"{right / total:.3f}")
        for c, (right, total) in hits.items()
    ]
    grid.show(CONSOLE, ("class", "right", "of", "accuracy"), rows, title=printable(f"{directory.path} on {data}"))
    right, total = (sum(pair[i] for pair in hits.values()) for i in (0, 1))
    CONSOLE.print(f"accuracy {right / total:.3f}: {right} of {total} samples")
    if others:
        shown = ", ".join(map(printable, sorted(others)[:5])) + (", ..." if len(others) > 5 else "")
        told = f"left out {sum(others.values())} samples of classes that the run does not know: {shown}"
        CONSOLE.print(told, soft_wrap=True, markup=False, highlight=False)
    return 0


def predict(argv: Sequence[str]) -> int:
    """Name what is in files."""
    args = arguments.parse("predict", argv)
    directory = opened(args)
    experiment, timeline = reopen(directory)
    learner, x = experiment.learner, timeline.first.read(args.files)
    if not learner.model.classes:
        raise UserError(f"{directory.path} knows no class; learn some first.")
    with torch.no_grad():
        scores = learner(Inputs(lambda: x, torch.arange(len(x))))
    rows = []
    for file, row in zip(args.files, scores, strict=True):
        best = row.topk(min(args.top, len(row)))
        names = [printable(timeline.class_names[learner.model.classes[i]]) for i in best.indices.tolist()]
        files = [printable(file), *[""] * len(names)]  # said once, beside its likeliest class
        rows += [(f, n, f"{v:.3f}") for f, n, v in zip(files, names, best.values.tolist(), strict=False)]
    grid.show(CONSOLE, ("file", "class", "score"), rows, texts=2)
    return 0


def plan(argv: Sequence[str]) -> int:
    """Print what a config would do, and do nothing."""
    experiment, steps = prepared(argv)
    learner, names = experiment.learner, experiment.scenario.class_names
    rows = []
    for step in steps:
        event = step.event
        shown = ", ".join(printable(names[c]) for c in event.classes[:8]) + (" ..." if len(event.classes) > 8 else "")
        kind, nobody = ("learn", "nothing new") if isinstance(event, Experience) else ("forget", "single samples")
        counts = f"{len(event.data):,}", f"{len(step.exam):,}" if len(step.exam) else "none"
        rows.append((printable(event.name), kind, shown or nobody, *counts))
    heads = ("request", "kind", "classes", "train samples", "exam samples")
    grid.show(CONSOLE, heads, rows, texts=3, title="the stream")
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


def _say(lines: Iterable[str]) -> None:
    """Print lines that hold names of files and tensors, as they are."""
    for line in lines:
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def prepared(argv: Sequence[str]) -> tuple[Experiment, list[Step]]:
    """Build what a config describes, and find out all that would stop it before a directory is made.

    Returns:
        The experiment and its requests.

    Raises:
        UserError: If a run of it would be refused.
    """
    experiment = build(argv, CONSOLE)
    if experiment.run_dir:
        Run.check_free(experiment.run_dir)
    _look(experiment.scenario, experiment.skip_unreadable)
    steps = list(Timeline(experiment.scenario).steps())
    sharing.shelf_of(experiment)
    _try(experiment, steps)
    experiment.learner.foresee((step.event for step in steps), experiment.scenario.class_names)
    if warning := optimiser.kept(argv, experiment.config):
        _warn(warning)
    return experiment, steps


def _look(scenario: Scenario, skip: bool) -> None:
    """Look at all data before anything is made of them.

    Raises:
        UserError: If some cannot be read and are not to be skipped.
    """
    with survey.Bar(CONSOLE) as bar:
        found = scenario.survey(bar)
    survey.told(found, skip, CONSOLE)


def _try(experiment: Experiment, steps: Sequence[Step]) -> None:
    """Let the backbone look at one input of each experience: it refuses what it cannot read at once; tell doubts."""
    learner = experiment.learner
    for sentence in doubts(learner.strategy, (s.event for s in steps), learner.model.known):
        _warn(sentence)
    backbone = learner.model.backbone
    for event in (s.event for s in steps):
        if isinstance(event, Experience) and len(event.reference):
            x = event.reference.unkept()[[0]].x
            backbone.check(x)
            backbone.check_values(x)


def _warn(sentence: str) -> None:
    CONSOLE.print(f"warning  {printable(sentence)}", style="yellow", soft_wrap=True)


def _title(argv: Sequence[str]) -> str:
    """Name a run after the first config file given, or after nothing in particular."""
    given = [b for a, b in pairwise(argv) if a in ("--config", "-c")]
    given += [a.partition("=")[2] for a in argv if a.startswith("--config=")]
    return Path(given[0]).stem if given else "run"


def _free(parent: Path, name: str) -> Path:
    """Return a directory under ``parent`` that does not exist yet."""
    candidates = (parent / (name + (f"-{i}" if i else "")) for i in range(10_000))
    return next(p for p in candidates if not p.exists())

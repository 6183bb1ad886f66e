"""Verbs that carry out a stream: run, resume, learn. `query` has those that read, `forget` those that forget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from cl_framework.cli import arguments
from cl_framework.configuration import optimiser, shipped
from cl_framework.configuration.experiment import Experiment, build
from cl_framework.configuration.parser import SKIP, scenario_of
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import hits_of
from cl_framework.methods.compatibility import check_events
from cl_framework.methods.competition import training_warnings
from cl_framework.runs import feature_sharing, maintenance, receipts, relocation
from cl_framework.runs.directory import Run
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.reopening import manifest, opened
from cl_framework.streams import survey
from cl_framework.streams.events import Experience, Step
from cl_framework.streams.identifiers import concealed
from cl_framework.streams.scenario import Scenario
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal import grid
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable


def run(argv: Sequence[str]) -> int:
    """Carry out a config from the first event to the last."""
    argv = shipped.with_paths(argv)
    key = receipts.new_key()
    experiment, timeline = prepared(argv, key)
    path = Path(experiment.run_dir) if experiment.run_dir else _free(Path("runs"), _title(argv))
    config = concealed(relocation.absolute(experiment.config), experiment.scenario.class_names, key)
    directory = Run.create(path, config, manifest(experiment), key)
    count = len(list(timeline.steps()))
    CONSOLE.print(f"{count} request{'s'[: count != 1]} -> {path}", soft_wrap=True)
    _say(experiment.learner.model.backbone.notes)
    with directory.lock():
        try:
            OpenRun(directory, experiment, timeline).go_on()
        except Exception:  # with nothing committed there is nothing to resume, and the same mistake would come again
            maintenance.discard(directory.path)
            raise
    return 0


def resume(argv: Sequence[str]) -> int:
    """Continue a stopped run."""
    args = arguments.parse("resume", argv)
    directory = opened(args.dir, args.relocate)
    with directory.lock():
        directory.sweep()
        run = OpenRun.reopen(directory, changes=args.rest, renew=True)
        CONSOLE.print(f"{len(run.left)} of {len(run.steps)} requests left -> {run.path}", soft_wrap=True)
        run.go_on()
    return 0


def learn(argv: Sequence[str]) -> int:
    """Learn more on a finished run."""
    args = arguments.parse("learn", argv)
    directory = opened(args.dir, args.relocate)
    with directory.lock():
        directory.sweep()
        changes, rest = optimiser.apart(args.rest)
        run = OpenRun.reopen(directory, changes=changes)
        run.check_finished()
        stream, described = scenario_of([*rest, *([SKIP] if args.skip_unreadable else [])])
        _look(stream, args.skip_unreadable)
        request = ["--data.scenario", concealed(described, stream.class_names, receipts.run_key(directory.path))]
        request += [SKIP] if args.skip_unreadable else []
        asked = {"learn": request, "data": stream.fingerprint()}
        spec = {**asked, "as_new": args.as_new} if args.as_new else asked
        longer = run.along(run.timeline.learning(spec, stream))
        _try(longer.experiment, longer.left)
        otherwise = "give --as_new PREFIX to learn it as a class of its own"
        learner, events, names = longer.learner, (s.event for s in longer.left), longer.timeline.class_names
        check_events(learner.model, learner.strategy, learner.unlearner, events, names, otherwise)
        longer.go_on()
    return 0


def _examined(run: OpenRun, data: str) -> int:
    """Examine a run on other data, and say which samples of theirs it cannot be asked about."""
    learner, timeline = run.learner, run.timeline
    learner.to(run.experiment.make_trainer(None).strategy.root_device)
    exam, others = timeline.first.exam(data, {timeline.class_names[c]: c for c in learner.model.classes})
    if not len(exam):
        known = ", ".join(timeline.class_names[c] for c in learner.model.classes[:5])
        raise UserError(f"{data} holds no sample of a class that {run.path} knows, such as {known}.")
    hits = hits_of(exam, learner.answer)
    rows = [
        (printable(timeline.class_names[c]), str(right), str(total), f"{right / total:.3f}")
        for c, (right, total) in hits.items()
    ]
    grid.print_table(CONSOLE, ("class", "right", "of", "accuracy"), rows, title=printable(f"{run.path} on {data}"))
    right, total = (sum(pair[i] for pair in hits.values()) for i in (0, 1))
    CONSOLE.print(f"accuracy {right / total:.3f}: {right} of {total} samples")
    if others:
        shown = ", ".join(map(printable, sorted(others)[:5])) + (", ..." if len(others) > 5 else "")
        message = f"left out {sum(others.values())} samples of classes that the run does not know: {shown}"
        CONSOLE.print(message, soft_wrap=True, markup=False, highlight=False)
    return 0


def _say(lines: Iterable[str]) -> None:
    """Print lines that hold names of files and tensors, as they are."""
    for line in lines:
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


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
    if experiment.run_dir:
        Run.check_free(experiment.run_dir)
    _look(experiment.scenario, experiment.skip_unreadable)
    timeline = Timeline(experiment.scenario, key=key)
    steps = list(timeline.steps())
    feature_sharing.shared_directory_of(experiment)
    _try(experiment, steps)
    learner, events = experiment.learner, (step.event for step in steps)
    check_events(learner.model, learner.strategy, learner.unlearner, events, experiment.scenario.class_names)
    if warning := optimiser.leftover_warning(argv, experiment.config):
        _warn(warning)
    return experiment, timeline


def _look(scenario: Scenario, skip: bool) -> None:
    """Check all data before a run.

    Raises:
        UserError: If some cannot be read and are not to be skipped.
    """
    with survey.Bar(CONSOLE) as bar:
        result = scenario.survey(bar)
    survey.survey_report(result, skip, CONSOLE)


def _try(experiment: Experiment, steps: Sequence[Step]) -> None:
    """Check one input of each experience with the backbone, which refuses unreadable ones at once; print warnings."""
    learner = experiment.learner
    for sentence in training_warnings(learner.strategy, (s.event for s in steps), learner.model.known):
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

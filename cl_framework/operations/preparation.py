"""What would stop an experiment is found before a directory is made or anything is learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cl_framework.configuration.experiment import Experiment
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.methods.compatibility import check_events
from cl_framework.methods.competition import training_warnings
from cl_framework.runs import feature_sharing
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams import survey
from cl_framework.streams.events import Experience, Step
from cl_framework.streams.scenario import Scenario
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable


def prepare(experiment: Experiment, key: bytes | None = None) -> Timeline:
    """Return the timeline of an experiment after looking at its data, its requests and what its parts can do.

    Args:
        experiment: The experiment.
        key: The key of the run to be.

    Raises:
        UserError: If a run of it would be refused.
    """
    if experiment.run_dir:
        RunDirectory.check_free(experiment.run_dir)
    look(experiment.scenario, experiment.skip_unreadable)
    timeline = Timeline(experiment.scenario, key=key)
    steps = list(timeline.steps())
    if not steps:
        raise UserError(f"{type(experiment.scenario).__name__} has no experiences; a stream needs one or more.")
    feature_sharing.shared_directory_of(experiment)
    try_inputs(experiment.learner, steps)
    learner, events = experiment.learner, (step.event for step in steps)
    check_events(learner.model, learner.strategy, learner.unlearner, events, experiment.scenario.class_names)
    return timeline


def look(scenario: Scenario, skip: bool) -> None:
    """Look at all data before anything is made of them.

    Raises:
        UserError: If some cannot be read and are not to be skipped.
    """
    with survey.Bar(CONSOLE) as bar:
        seen = scenario.survey(bar)
    survey.survey_report(seen, skip, CONSOLE)


def try_inputs(learner: Learner, steps: Sequence[Step]) -> None:
    """Let the backbone look at one input of each experience, and warn of doubts about the stream.

    Raises:
        UserError: If the backbone cannot read an input.
    """
    for sentence in training_warnings(learner.strategy, (s.event for s in steps), learner.model.known):
        warn(sentence)
    backbone = learner.model.backbone
    for event in (s.event for s in steps):
        if isinstance(event, Experience) and len(event.reference):
            x = event.reference.unkept()[[0]].x
            backbone.check(x)
            backbone.check_values(x)


def warn(sentence: str) -> None:
    """Print a warning."""
    CONSOLE.print(f"warning  {printable(sentence)}", style="yellow", soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that hold names of files and tensors, as they are."""
    for line in lines:
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)

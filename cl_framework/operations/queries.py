"""Ask a run's model and change nothing: examine it again, on its own test samples or on others, and predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from cl_framework.errors import UserError, some_of
from cl_framework.evaluation.evaluator import Evaluator, hits_of
from cl_framework.feature_cache.store import FeatureStore
from cl_framework.runs.open_run import OpenRun
from cl_framework.streams.events import Experience
from cl_framework.streams.identifiers import called
from cl_framework.streams.lazy_inputs import Inputs


@final
@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a model answers test samples.

    Attributes:
        hits: Class id -> right answers and samples.
        class_names: What each of these classes is called.
        agrees: Whether the answers are those that the run recorded; None where nothing is compared.
        missing: How many of the recorded test samples are gone.
        gone: What names some of them.
        unknown: Name of a class that the run does not know -> how many samples were left out.
    """

    hits: Mapping[int, tuple[int, int]]
    class_names: Mapping[int, str]
    agrees: bool | None = None
    missing: int = 0
    gone: str = ""
    unknown: Mapping[str, int] = field(default_factory=dict)

    @property
    def right(self) -> int:
        """How many samples were answered rightly."""
        return sum(right for right, _ in self.hits.values())

    @property
    def total(self) -> int:
        """How many samples there were."""
        return sum(total for _, total in self.hits.values())

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None without samples."""
        return self.right / self.total if self.total else None


@final
@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of some inputs.

    Attributes:
        scores: ``(n, classes)``, a column for each live class; the larger, the likelier.
        classes: The id of each column's class.
        class_names: The name of each column's class.
    """

    scores: Tensor
    classes: tuple[int, ...]
    class_names: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The name of the likeliest class of each input."""
        return [self.class_names[i] for i in self.scores.argmax(1).tolist()]

    @property
    def ids(self) -> list[int]:
        """The id of the likeliest class of each input."""
        return [self.classes[i] for i in self.scores.argmax(1).tolist()]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """Return the names and scores of the ``k`` likeliest classes of each input, best first."""
        best = self.scores.topk(min(k, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.class_names[i], v) for i, v in zip(*row, strict=True)] for row in pairs]


def evaluate_run(run: OpenRun) -> Evaluation:
    """Open every exam again and compare with what the run recorded.

    Raises:
        UserError: If the run has no event yet, or none of its test samples is there.
    """
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
    asked, recorded = (sum(n for _, n in hits.values()) for hits in (again, last.hits))
    exams = [s.exam.of(model.classes) for s in steps if isinstance(s.event, Experience)] if asked < recorded else []
    gone = some_of(lost) if (lost := [name for exam in exams for name in exam.absent()]) else ""
    if recorded and not asked:
        raise UserError(
            f"None of the {recorded} test samples of {run.path} is there any more ({gone}); say where they "
            "are (--relocate OLD=NEW), or evaluate it on others (--data DATA)."
        )
    agrees = None if asked < recorded else again == last.hits
    return Evaluation(again, {c: called(c, names) for c in again}, agrees, recorded - asked, gone)


def evaluate_on(run: OpenRun, data: str) -> Evaluation:
    """Examine a run on other data; classes are matched by name.

    Args:
        run: The run.
        data: What names the data, such as ``imagefolder:PATH``.

    Raises:
        UserError: If they hold no sample of a class that the run knows.
    """
    learner, names = run.learner, run.timeline.class_names
    learner.to(run.experiment.make_trainer(None).strategy.root_device)
    exam, others = run.timeline.first.exam(data, {names[c]: c for c in learner.model.classes})
    if not len(exam):
        known = ", ".join(names[c] for c in learner.model.classes[:5])
        raise UserError(f"{data} holds no sample of a class that {run.path} knows, such as {known}.")
    hits = hits_of(exam, learner.answer)
    return Evaluation(hits, {c: names[c] for c in hits}, unknown=others)


def predict_inputs(run: OpenRun, x: Tensor) -> Prediction:
    """Return what a run's model says of inputs ``(n, ...)``.

    Raises:
        UserError: If the run knows no class.
    """
    learner, classes = run.learner, tuple(run.learner.model.classes)
    if not classes:
        raise UserError(f"{run.path} knows no class; learn some first.")
    with torch.no_grad():
        scores = learner(Inputs(lambda: x, torch.arange(len(x))))
    return Prediction(scores, classes, tuple(run.timeline.class_names[c] for c in classes))

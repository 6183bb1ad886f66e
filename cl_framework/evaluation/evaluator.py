"""Evaluation after every request, on the test samples of every experience so far, over live classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias, TypeVar, final

import torch
from torch import Tensor

from cl_framework.errors import MissingSample
from cl_framework.evaluation.measurements import Forgotten, Measurements
from cl_framework.metrics.continual import Hits, micro_accuracy
from cl_framework.metrics.ranked import top_k_hits, within_experience_hits
from cl_framework.streams.events import Event, Experience, ForgetRequest, Step
from cl_framework.streams.origins import Cell
from cl_framework.streams.samples import Joined, Samples, Subset

Answer: TypeAlias = Callable[[Samples], Tensor]
"""Predicts the class id ``(n,)`` of each sample among the classes alive now, or ranks all of them ``(n, classes)``."""

Outcomes: TypeAlias = Counter[tuple[int, int]]
"""How often each ``(true class, predicted class)`` occurred."""

_K = TypeVar("_K")

Sheet: TypeAlias = tuple[dict[str, int], Tensor, Tensor]
"""Number of samples of each exam in a pass; their labels ``(n,)``; the predictions."""


@final
class Evaluator:
    """Holds the test samples that no learner may see (an exam for each experience), and past forget requests.

    An exam loses a class for good when what its experience brought of it is forgotten, whether or not the learner can
    still name it; a class that is learned again comes back with its new exam. Samples that were forgotten while their
    class stays are asked about once, before and after the request: later predictions of them only measure their class.
    `answer` predicts all exams in one pass: a prediction depends on its own sample alone.
    """

    def __init__(self, selection: bool = False) -> None:
        """Start without exams.

        Args:
            selection: Also count how often the predicted class belongs to the right experience, for strategies that
                choose an adapter per experience.
        """
        self._selection = selection
        self._exams: dict[str, Samples] = {}
        self._forgotten: dict[str, Samples] = {}
        self._gone: set[int] = set()
        self._before: tuple[str, float | None] | None = None

    def before(self, step: Step, answer: Answer) -> None:
        """Measure the forget set before a request; does nothing before learning."""
        if isinstance(step.event, ForgetRequest):
            self._before = step.event.name, _accuracy([step.exam], answer)

    def examine(self, step: Step, answer: Answer, live: Sequence[int], owner: Mapping[int, str]) -> Measurements:
        """Evaluate every exam so far, after ``step`` was carried out.

        Args:
            step: The step just carried out; its exam joins the others.
            answer: Predicts the class ids of samples; if it ranks classes, best first, top-k hits are counted too.
            live: Classes that can be predicted now.
            owner: The experience that each live class belongs to.

        Raises:
            RuntimeError: If ``step`` forgets and `before` was not called for it.
        """
        old, event = dict(self._forgotten), step.event
        aside = self._unmet(event)
        self._admit(step, live)
        sheets = _sheets(self._exams, answer)
        outcomes = _by_exam(sheets)
        hits = {(name, c): h for name, counts in outcomes.items() for c, h in _hits(counts).items()}
        hits |= {(name, c): h for name, exam in aside.items() for c, h in _hits(_outcomes(exam, answer)).items()}
        selected = _selected(outcomes.values(), owner)
        learns = isinstance(event, Experience)
        again = {name: _asked(exam, answer, live) for name, exam in self._forgotten.items() if name in old}
        return Measurements(
            event=event.name,
            kind="learn" if learns else "forget",
            classes=event.classes,
            exams={name: _hits(outcomes[name]) for name in self._exams},
            selected=selected if self._selection else None,
            forget=None if learns else self._forget(step, _asked(step.exam, answer, live), again, hits),
            old=again,
            relearned=dict(event.relearned) if isinstance(event, Experience) else {},
            lenient={"experience": selected[0]} | _by_rank(sheets, owner),
        )

    def hits(self, answer: Answer) -> dict[int, Hits]:
        """Return right answers and samples of every live class, all exams together, as `Measurements.hits` does.

        Raises:
            UserError: If a sample has changed; missing ones are left out.
        """
        return _hits(_pooled(_by_exam(_sheets(self._exams, answer, strict=True)).values()))

    def restore(self, step: Step, measurements: Measurements) -> None:
        """Restore ``step`` with its ``measurements``, as if just evaluated."""
        self._admit(step, measurements.hits)
        self._before = None

    def _admit(self, step: Step, live: Iterable[int]) -> None:
        event, lost = step.event, frozenset[Cell]()
        if isinstance(event, Experience):
            self._exams[event.name] = step.exam
            self._gone -= set(event.classes)
            back = {*event.classes, *event.relearned.values()}
            kept = {name: _only(exam, set(exam.labels.tolist()) - back) for name, exam in self._forgotten.items()}
            self._forgotten = {name: exam for name, exam in kept.items() if len(exam)}
        else:
            self._gone |= set(event.classes)
            lost = event.cells
            if not event.single:
                self._forgotten[event.name] = _unremembered(step.exam)
        stay = set(live) - self._gone
        exams = {n: _only(exam, {c for c in stay if (n, c) not in lost}) for n, exam in self._exams.items()}
        self._exams = {name: exam for name, exam in exams.items() if len(exam)}

    def _unmet(self, event: Event) -> dict[str, Samples]:
        """Return the exams of cells that are forgotten while their classes stay: they are no longer evaluated."""
        lost = event.cells if isinstance(event, ForgetRequest) and event.single else frozenset[Cell]()
        names = {name for name, _ in lost} & self._exams.keys()
        return {n: self._exams[n].of([c for name, c in sorted(lost) if name == n]) for n in sorted(names)}

    def _forget(self, step: Step, after: Hits, old: Mapping[str, Hits], live: Mapping[Cell, Hits]) -> Forgotten:
        name, event = step.event.name, step.event
        if self._before is None or self._before[0] != name:
            raise RuntimeError(f"Nothing was measured before {name!r}: call before(step, answer) first.")
        (_, accuracy_before), self._before = self._before, None
        measured = Forgotten(accuracy_before, micro_accuracy([after]), micro_accuracy(old.values()))
        if not isinstance(event, ForgetRequest):
            return measured
        measured = replace(measured, went=len(event.data), stays=event.stays)
        if not event.single:
            return measured
        went = {cell: len(ids) for cell, ids in event.taken.items()}
        return replace(measured, samples=len(step.exam), unseen=expected(went, live))


def expected(went: Mapping[_K, int], live: Mapping[_K, Hits]) -> float | None:
    """Return the accuracy to be expected of samples that were never met: that on test samples like them.

    Args:
        went: Class, or experience and class -> how many of its samples went; it counts as often.
        live: The same -> ``(right, total)`` over its test samples.

    >>> expected({1: 3, 2: 1, 7: 5}, {1: (8, 10), 2: (2, 5)})
    0.7
    >>> expected({7: 5}, {}) is None
    True
    """
    known = {c: n for c, n in went.items() if live.get(c, (0, 0))[1]}
    whole = sum(n * live[c][0] / live[c][1] for c, n in known.items())
    return whole / sum(known.values()) if known else None


def hits_of(exam: Samples, answer: Answer) -> dict[int, Hits]:
    """Return right answers and samples of every class in an exam."""
    return _hits(_outcomes(exam, answer))


def _only(exam: Samples, classes: set[int]) -> Samples:
    """Return the samples of ``classes``: the very same object when that is all of them."""
    return exam if set(exam.labels.tolist()) <= classes else exam.of(classes)


def _unremembered(exam: Samples) -> Samples:
    """Return the same samples without a name: evaluating forgotten samples must not store their features again."""
    copy = Subset(exam.unkept(), torch.arange(len(exam)))
    copy.key = None
    return copy


def _pairs(labels: Tensor, answers: Tensor) -> list[tuple[int, int]]:
    best = answers[:, 0] if answers.ndim > 1 else answers
    return list(zip(labels.tolist(), best.tolist(), strict=True))


def _answered(exam: Samples, answer: Answer, strict: bool = False) -> tuple[Samples, Tensor]:
    """Return an exam and what was answered, without samples that have to be read and are gone or others than before.

    Of files it shows only when they are read whether they are what they were, so that it may take several tries.
    """
    while True:
        try:
            return exam, answer(exam) if len(exam) else exam.labels
        except MissingSample as error:
            if strict and error.changed:
                raise
            left = exam.where(exam.present(range(len(exam))))
            if len(left) == len(exam):
                raise
            exam = left


def _outcomes(exam: Samples, answer: Answer) -> Outcomes:
    if not len(exam):
        return Counter()
    asked, answers = _answered(exam, answer)
    return Counter(_pairs(asked.labels, answers))


def _sheets(exams: Mapping[str, Samples], answer: Answer, strict: bool = False) -> list[Sheet]:
    """Ask about every exam; those of one source and transform are asked at once, so that passes fill."""
    sheets = []
    for key in dict.fromkeys(exam.key for exam in exams.values()):
        alike = {name: exam for name, exam in exams.items() if exam.key == key}
        whole = Joined(list(alike.values()))
        asked, answers = _answered(whole, answer, strict)
        if len(asked) < len(whole):
            alike = {name: exam.where(exam.present(range(len(exam)))) for name, exam in alike.items()}
        sheets.append(({name: len(exam) for name, exam in alike.items()}, asked.labels, answers))
    return sheets


def _by_exam(sheets: Iterable[Sheet]) -> dict[str, Outcomes]:
    outcomes: dict[str, Outcomes] = {}
    for sizes, labels, answers in sheets:
        pairs = iter(_pairs(labels, answers))
        outcomes |= {name: Counter(islice(pairs, size)) for name, size in sizes.items()}
    return outcomes


def _by_rank(sheets: Iterable[Sheet], owner: Mapping[int, str]) -> dict[str, int]:
    hits = Counter[str]()
    for _, labels, answers in sheets:
        if answers.ndim > 1:
            hits["top_5"] += top_k_hits(answers, labels)
            hits["within_experience"] += within_experience_hits(answers, labels, owner)
    return dict(hits)


def _pooled(outcomes: Iterable[Outcomes]) -> Outcomes:
    return sum(outcomes, Counter[tuple[int, int]]())


def _hits(outcomes: Outcomes) -> dict[int, Hits]:
    total = Counter[int]()
    for (true, _), n in outcomes.items():
        total[true] += n
    return {c: (outcomes[c, c], total[c]) for c in sorted(total)}


def _selected(outcomes: Iterable[Outcomes], owner: Mapping[int, str]) -> Hits:
    pooled = _pooled(outcomes)
    return sum(n for (true, answer), n in pooled.items() if owner[true] == owner[answer]), pooled.total()


def _accuracy(exams: Iterable[Samples], answer: Answer) -> float | None:
    return micro_accuracy(hits for exam in exams for hits in _hits(_outcomes(exam, answer)).values())


def _asked(exam: Samples, answer: Answer, live: Sequence[int]) -> Hits:
    """Return ``(right, total)``; a class that has no output cannot be answered, so its samples need not be read."""
    able = _only(exam, set(live))
    outcomes = _outcomes(able, answer)
    return sum(n for (true, answer), n in outcomes.items() if true == answer), len(exam) - len(able) + outcomes.total()

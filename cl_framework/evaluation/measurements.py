"""Measurements after one event, as plain numbers. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from cl_framework.metrics.continual import Hits
from cl_framework.storage.typed_records import typed


@final
@dataclass(frozen=True, slots=True)
class Forgotten:
    """Effect of a forget request on its forget set; None where there was no sample to test.

    Attributes:
        accuracy_before: On the step's exam, just before the request.
        accuracy_after: On the same, after it.
        accuracy_old: On the exams of all earlier requests that took classes, pooled, after it.
        notes: Notes of the unlearner, such as the share of groups it left at zero.
        samples: Number of forgotten samples, where every class stays; None where a class is forgotten.
        unseen: Where every class stays: accuracy after it on test samples of the classes of the forgotten ones, each
            class with the weight of how many of its samples went; the accuracy to expect of samples never met.
        went: Number of forgotten training samples; None in older records.
        stays: Classes that lost a whole cell and live on: the experiences that keep some.
    """

    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_old: float | None
    notes: dict[str, float] = field(default_factory=dict)
    samples: int | None = None
    unseen: float | None = None
    went: int | None = None
    stays: dict[int, tuple[str, ...]] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Measurements:
    """All measurements after one event.

    Attributes:
        event: Name of the event just carried out.
        kind: Whether it was learned or forgotten.
        classes: Classes that it brought or forgot; none when only samples were forgotten.
        exams: Experience name -> class -> ``(right, total)`` over its test samples, live classes only.
        selected: Test samples whose prediction is a class of the right experience, out of how many; None unless asked.
        forget: Only for forget requests.
        old: Earlier forget request -> ``(right, total)`` on the classes it forgot: whether they stay forgotten. Classes
            that were learned again are left out, and so are requests after which every class stayed.
        relearned: Classes that were forgotten once and came back: new id -> the id before.
        overlap: Adapter -> each earlier one -> how far their subspaces of inputs and of outputs meet, from 0 to 1.
            After learning only pairs with the newest; empty where adapters have no factors.
        lenient: How many samples of all exams count as right by a laxer rule: ``experience``, the class said came with
            the right experience; ``top_5``; ``within_experience``, the class is the best of its experience. The last
            two are there where more than the best class was answered; older runs have none.
    """

    event: str
    kind: Literal["learn", "forget"]
    classes: tuple[int, ...]
    exams: dict[str, dict[int, Hits]]
    selected: Hits | None = None
    forget: Forgotten | None = None
    old: dict[str, Hits] = field(default_factory=dict)
    relearned: dict[int, int] = field(default_factory=dict)
    overlap: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    lenient: dict[str, int] = field(default_factory=dict)

    @property
    def hits(self) -> dict[int, Hits]:
        """Class -> ``(right, total)`` over the test samples of all exams."""
        right, total = Counter[int](), Counter[int]()
        for exam in self.exams.values():
            right.update({c: r for c, (r, _) in exam.items()})
            total.update({c: t for c, (_, t) in exam.items()})
        return {c: (right[c], total[c]) for c in sorted(total)}

    @property
    def cells(self) -> dict[tuple[str, int], Hits]:
        """Exam and class -> ``(right, total)`` over its test samples."""
        return {(name, c): hits for name, exam in self.exams.items() for c, hits in exam.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; class ids become strings, as JSON's keys are."""
        return {
            "event": self.event,
            "kind": self.kind,
            "classes": list(self.classes),
            "exams": {name: {str(c): list(h) for c, h in exam.items()} for name, exam in self.exams.items()},
            "selected": None if self.selected is None else list(self.selected),
            "forget": None if self.forget is None else asdict(self.forget),
            "old": {name: list(h) for name, h in self.old.items()},
            "relearned": {str(new): old for new, old in self.relearned.items()},
            "overlap": {new: {old: list(pair) for old, pair in row.items()} for new, row in self.overlap.items()},
            "lenient": self.lenient,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurements:
        """Return the value that `to_dict` was given.

        Raises:
            UserError: If a field is missing or of another type.
        """
        return typed(data, cls, "The record of an event")

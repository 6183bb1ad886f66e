"""The samples that an audit asks about: forgotten ones, those that stay, and unseen ones beside each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from cl_framework.errors import UserError, did_you_mean
from cl_framework.streams import origins
from cl_framework.streams.events import Experience, ForgetRequest, Step, surviving
from cl_framework.streams.samples import Joined, Rows, Samples

PER_CLASS = 30
"""Most retained training samples of a class that an audit reads."""


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What an audit is about. All samples have the test transform.

    Attributes:
        requests: Names of the forget requests.
        learned: Every experience as it was learned, less the classes that were forgotten and learned again.
        remaining: What is left of them.
        gone: Training samples that were forgotten, and stayed forgotten.
        unseen: Test samples of the same classes, out of the exams of the experiences that brought what went.
        vanished: Classes among them of which nothing may be known any more; the others lost single samples only.
        retained: Training samples that stay, at most `PER_CLASS` of each class.
        exam: Test samples of the classes that stay, out of the exams of the experiences that keep some of them.
    """

    requests: tuple[str, ...]
    learned: tuple[Experience, ...]
    remaining: tuple[Experience, ...]
    gone: Samples
    unseen: Samples
    vanished: tuple[int, ...]
    retained: Samples
    exam: Samples


def subject(steps: Sequence[Step], only: str | None = None) -> Subject:
    """Gather what all forget requests of a stream, or ``only`` the one of that name, are to be audited on.

    Reading forgotten samples for an audit keeps no copy of them beside their source.

    Raises:
        UserError: If there is no such request, or nothing stayed forgotten.
    """
    requests = [s.event for s in steps if isinstance(s.event, ForgetRequest)]
    if only is not None and only not in {r.name for r in requests}:
        raise UserError(f"There is no forget request {only!r}. {did_you_mean(only, [r.name for r in requests])}")
    asked = [r for r in requests if only in (None, r.name)]
    lessons = [(s.event, s.exam) for s in steps if isinstance(s.event, Experience)]
    past = surviving(steps)
    alive = {c for e in past for c in e.classes}
    back = {old for e, _ in lessons for old in e.relearned.values()}
    stay = torch.cat([e.reference.ids for e in past]) if past else torch.empty(0, dtype=torch.int64)
    gone = join_samples(
        r.reference.without(stay).of(set(r.reference.labels.tolist()) - back - (set(r.classes) & alive)) for r in asked
    )
    if not len(gone):
        state = "was learned again" if asked else "has been forgotten yet; `clf forget DIR --classes ...` does"
        raise UserError(f"Nothing to audit: {'all that was forgotten' if asked else 'nothing'} {state}.")
    touched = set(gone.labels.tolist())
    lost, stays = {cell for r in asked for cell in r.taken}, set(origins.cells_of({e.name: e.classes for e in past}))
    return Subject(
        tuple(r.name for r in asked),
        tuple(unkept(e) for e in (lesson.without(back) for lesson, _ in lessons) if e is not None),
        tuple(past),
        gone.unkept(),
        join_samples(exam.of({c for c in touched if (e.name, c) in lost}) for e, exam in lessons).unkept(),
        tuple(sorted(touched - alive)),
        few(join_samples(e.reference for e in past)),
        join_samples(exam.of({c for c in alive if (e.name, c) in stays}) for e, exam in lessons),
    )


def join_samples(parts: Iterable[Samples]) -> Samples:
    """Join any number of samples, also none."""
    some = [p for p in parts if len(p)]
    return Joined(some) if some else Rows(torch.empty(0), torch.empty(0, dtype=torch.int64))


def unkept(lesson: Experience) -> Experience:
    """Return the same experience, of which reading keeps no copy beside its source."""
    return replace(lesson, data=lesson.data.unkept(), reference=lesson.reference.unkept())


def few(samples: Samples, per_class: int = PER_CLASS) -> Samples:
    """Return at most ``per_class`` samples of each class, spread evenly over those there are."""
    keep = torch.zeros(len(samples), dtype=torch.bool)
    for c in sorted(set(samples.labels.tolist())):
        at = (samples.labels == c).nonzero()[:, 0]
        keep[at[torch.linspace(0, len(at) - 1, min(per_class, len(at))).round().long()]] = True
    return samples.where(keep)

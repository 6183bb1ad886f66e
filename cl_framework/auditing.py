"""What an audit asks of a model's answers, about what was forgotten and what stayed.

`subject` gathers the samples, `answers` puts one model through the questions. The formulas are in ``metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np
import torch

from cl_framework import origin
from cl_framework.errors import UserError, did_you_mean, some_of
from cl_framework.learner import Learner
from cl_framework.metrics import membership, recovery
from cl_framework.metrics.membership import Floats
from cl_framework.model import inputs
from cl_framework.stream import Experience, ForgetRequest, Joined, Rows, Samples, Step, surviving

Measured: TypeAlias = dict[str, float | None]

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
    gone = joined(
        r.reference.without(stay).of(set(r.reference.labels.tolist()) - back - (set(r.classes) & alive)) for r in asked
    )
    if not len(gone):
        what = "was learned again" if asked else "has been forgotten yet; `clf forget DIR --classes ...` does"
        raise UserError(f"There is nothing to audit: {'all that was forgotten' if asked else 'nothing'} {what}.")
    touched = set(gone.labels.tolist())
    lost, stays = {cell for r in asked for cell in r.taken}, set(origin.cells({e.name: e.classes for e in past}))
    return Subject(
        tuple(r.name for r in asked),
        tuple(unkept(e) for e in (lesson.without(back) for lesson, _ in lessons) if e is not None),
        tuple(past),
        gone.unkept(),
        joined(exam.of({c for c in touched if (e.name, c) in lost}) for e, exam in lessons).unkept(),
        tuple(sorted(touched - alive)),
        few(joined(e.reference for e in past)),
        joined(exam.of({c for c in alive if (e.name, c) in stays}) for e, exam in lessons),
    )


def reachable(about: Subject, learning: Iterable[Experience] = ()) -> tuple[Subject, int]:
    """Return a subject without samples that are gone, and how many these are; pictures may be deleted once forgotten.

    Args:
        about: The subject.
        learning: What models have to be trained on for the audit.

    Raises:
        UserError: If all that was forgotten is gone, or something is that has to be learned from.
    """
    if lost := list(dict.fromkeys(name for e in learning for name in e.reference.absent())):
        raise UserError(
            f"Models to compare with would learn from samples that are gone ({some_of(lost)}, {len(lost)} in all); "
            "bring them back, say where they are (--relocate OLD=NEW), or audit without these models (--fast)."
        )
    if len(missing := about.gone.absent()) == len(about.gone):
        raise UserError(
            f"All that was forgotten is gone ({some_of(missing)}), and an audit asks the model about it; bring it "
            "back for as long as the audit takes, or say where it is (--relocate OLD=NEW)."
        )
    asked = {name: getattr(about, name) for name in ("gone", "unseen", "retained", "exam")}
    left = {name: samples.where(samples.present(range(len(samples)))) for name, samples in asked.items()}
    return replace(about, **left), sum(len(asked[name]) - len(left[name]) for name in asked)


def joined(parts: Iterable[Samples]) -> Samples:
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


@torch.no_grad()
def probabilities(learner: Learner, samples: Samples) -> Floats:
    """Return the softmax ``(n, classes)`` of a model's scores, columns as in ``model.classes``."""
    learner.eval()
    learner.model.phase = "evaluate"
    if not learner.model.classes or not len(samples):
        return np.empty((len(samples), len(learner.model.classes)))
    scores = torch.cat([learner(x).double().cpu() for x in inputs(samples.on(learner.model.device), 256)])
    return recovery.softmax(scores.numpy())


def answers(learner: Learner, about: Subject) -> tuple[Measured, Floats]:
    """Return accuracies, attacks and the Streisand check, and the softmax on the forgotten training samples."""
    p, q = probabilities(learner, about.gone), probabilities(learner, about.unseen)
    found: Measured = {
        "accuracy_forget_train": right(learner, p, about.gone),
        "accuracy_forget_test": right(learner, q, about.unseen),
        "accuracy_retain_train": right(learner, probabilities(learner, about.retained), about.retained),
        "accuracy_retain_test": right(learner, probabilities(learner, about.exam), about.exam),
        **attacks(learner.model.classes, (p, about.gone), (q, about.unseen)),
    }
    for side, probability in (("forget", p), ("unseen", q)):
        sure = bool(probability.size)
        found[f"confidence_max_{side}"] = float(probability.max(1).mean()) if sure else None
        found[f"entropy_{side}"] = -float(membership.entropy_attack(probability).mean()) if sure else None
    return found, p


def right(learner: Learner, p: Floats, samples: Samples) -> float | None:
    """Return the accuracy that probabilities amount to; a class without an output is never named."""
    if not len(samples):
        return None
    if not p.shape[1]:
        return 0.0
    return recovery.accuracy(np.array(learner.model.classes)[p.argmax(1)], samples.labels.numpy())


def attacks(classes: Sequence[int], members: tuple[Floats, Samples], others: tuple[Floats, Samples]) -> Measured:
    """Return the AUC of every attack; those that need the true class's output see only samples that have one."""
    sides = [_with_output(classes, p, samples) for p, samples in (members, others)]
    found: Measured = {}
    for name, labelled in membership.LABELLED.items():
        found[name] = membership.auc(*(labelled(p, columns) if len(p) else np.empty(0) for p, columns in sides))
    one, other = (membership.loss_attack(p, columns) for p, columns in sides)
    found["mia_loss_logistic_5fold_accuracy"] = membership.logistic_5fold_accuracy(one, other)
    for name, unlabelled in membership.UNLABELLED.items():
        able = bool(members[0].size and others[0].size)
        found[name] = membership.auc(*(unlabelled(p) for p, _ in (members, others))) if able else None
    return found


def _with_output(classes: Sequence[int], p: Floats, samples: Samples) -> tuple[Floats, recovery.Labels]:
    at = {c: i for i, c in enumerate(classes)}
    columns = np.array([at.get(c, -1) for c in samples.labels.tolist()], dtype=np.int64)
    return p[columns >= 0], columns[columns >= 0]


def distances(one: tuple[Floats, Sequence[int]], other: tuple[Floats, Sequence[int]]) -> tuple[float, float] | None:
    """Return activation distance and JS divergence of two models' softmax, each given with its classes."""
    union = sorted({*one[1], *other[1]})
    if not (one[0].size and other[0].size):
        return None
    p, q = (recovery.spread_over(*side, union) for side in (one, other))
    l2, js = recovery.activation_distance_l2(p, q), recovery.js_divergence_nats(p, q)
    return None if l2 is None or js is None else (l2, js)

"""Measurements of an audit on a model's outputs for forgotten and retained samples.

`subject` gathers the samples, `answers` measures one model. The formulas are in ``metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from cl_framework.auditing.subjects import Subject
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError, some_of
from cl_framework.metrics import membership, recovery
from cl_framework.metrics.membership import Floats
from cl_framework.streams.events import Experience
from cl_framework.streams.lazy_inputs import inputs
from cl_framework.streams.samples import Samples

Measured: TypeAlias = dict[str, float | None]


def reachable(about: Subject, learning: Iterable[Experience] = ()) -> tuple[Subject, int]:
    """Return a subject without samples that are gone, and how many these are; pictures may be deleted after forgetting.

    Args:
        about: The subject.
        learning: The samples that models of the audit are trained on.

    Raises:
        UserError: If all forgotten samples are missing, or some training samples are.
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
    measured: Measured = {
        "accuracy_forget_train": right(learner, p, about.gone),
        "accuracy_forget_test": right(learner, q, about.unseen),
        "accuracy_retain_train": right(learner, probabilities(learner, about.retained), about.retained),
        "accuracy_retain_test": right(learner, probabilities(learner, about.exam), about.exam),
        **attacks(learner.model.classes, (p, about.gone), (q, about.unseen)),
    }
    for side, probability in (("forget", p), ("unseen", q)):
        sure = bool(probability.size)
        measured[f"confidence_max_{side}"] = float(probability.max(1).mean()) if sure else None
        measured[f"entropy_{side}"] = -float(membership.entropy_attack(probability).mean()) if sure else None
    return measured, p


def right(learner: Learner, p: Floats, samples: Samples) -> float | None:
    """Return the accuracy of probabilities; a class without an output is never predicted."""
    if not len(samples):
        return None
    if not p.shape[1]:
        return 0.0
    return recovery.accuracy(np.array(learner.model.classes)[p.argmax(1)], samples.labels.numpy())


def attacks(classes: Sequence[int], members: tuple[Floats, Samples], others: tuple[Floats, Samples]) -> Measured:
    """Return the AUC of every attack; those that need the true class's output see only samples that have one."""
    sides = [_with_output(classes, p, samples) for p, samples in (members, others)]
    aucs: Measured = {}
    for name, labelled in membership.LABELLED.items():
        aucs[name] = membership.auc(*(labelled(p, columns) if len(p) else np.empty(0) for p, columns in sides))
    one, other = (membership.loss_attack(p, columns) for p, columns in sides)
    aucs["mia_loss_logistic_5fold_accuracy"] = membership.logistic_5fold_accuracy(one, other)
    for name, unlabelled in membership.UNLABELLED.items():
        able = bool(members[0].size and others[0].size)
        aucs[name] = membership.auc(*(unlabelled(p) for p, _ in (members, others))) if able else None
    return aucs


def _with_output(classes: Sequence[int], p: Floats, samples: Samples) -> tuple[Floats, recovery.Labels]:
    at = {c: i for i, c in enumerate(classes)}
    columns = np.array([at.get(c, -1) for c in samples.labels.tolist()], dtype=np.int64)
    return p[columns >= 0], columns[columns >= 0]


def softmax_distances(
    one: tuple[Floats, Sequence[int]], other: tuple[Floats, Sequence[int]]
) -> tuple[float, float] | None:
    """Return activation distance and JS divergence of two models' softmax, each given with its classes."""
    union = sorted({*one[1], *other[1]})
    if not (one[0].size and other[0].size):
        return None
    p, q = (recovery.spread_over(*side, union) for side in (one, other))
    l2, js = recovery.activation_distance_l2(p, q), recovery.js_divergence_nats(p, q)
    return None if l2 is None or js is None else (l2, js)

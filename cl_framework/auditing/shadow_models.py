"""Shadow models for U-LiRA: each trained on a random half of the samples in question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cl_framework.auditing.attacks import probabilities
from cl_framework.auditing.reference_models import ReferenceTrainer
from cl_framework.auditing.subjects import Subject
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.metrics import membership
from cl_framework.metrics.membership import Floats
from cl_framework.streams.events import Event, forget_request
from cl_framework.streams.seeds import seed_for

FEWEST_SHADOWS = 8


def shadow_attack(run: Learner, about: Subject, trainer: ReferenceTrainer, shadows: int) -> dict[str, Any] | None:
    """Attack the way this run forgets with shadow models (U-LiRA): can it be told who was in it?

    Each shadow learns all that remains and a random half of the forgotten samples, under a seed of its own, and then
    forgets that half with the run's unlearner in one request. Every sample is met by half of the shadows.

    Args:
        run: The model under audit.
        about: What is audited.
        trainer: Makes the shadows.
        shadows: How many: at least 8; 16 are the least to conclude from, 64 are good.

    Returns:
        None where the true class has no output after forgetting, so that there is no confidence to look at.

    Raises:
        UserError: If there are too few shadows, or the unlearner refuses.
    """
    if shadows < FEWEST_SHADOWS:
        raise UserError(f"U-LiRA needs at least {FEWEST_SHADOWS} shadow models; --shadows {shadows} are too few.")
    met = halves(shadows, len(about.gone), run.model.seed)
    observed, has_output = _confidence(run, about)
    confidences = []
    for i, present in enumerate(met):
        events = _shadow_stream(about, present)
        learner = trainer.learned(f"shadow {i + 1} of {shadows}", events, seed_for(f"shadow-{i}", run.model.seed))
        confidence, known = _confidence(learner, about)
        has_output &= known
        if not has_output.any():
            return None
        confidences.append(confidence)
    table, met = np.stack(confidences)[:, has_output], met[:, has_output]
    members, others = membership.u_lira(table, met)
    means = [np.where(side, table, 0).sum(0) / side.sum(0) for side in (met, ~met)]
    sd = membership.pooled_sd(table, met), membership.pooled_sd(table, ~met)
    judged = membership.log_likelihood_ratio(observed[has_output], means[0], means[1], sd)
    return {
        "shadows": shadows,
        "samples": int(has_output.sum()),
        "u_lira_auc": membership.auc(members, others),
        "u_lira_tpr_at_1pct_fpr": membership.tpr_at_fpr(members, others),
        "u_lira_share_of_run_called_member": float((judged > 0).mean()),
    }


def halves(shadows: int, samples: int, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return ``(shadows, samples)``, whether a shadow meets a sample: each sample is met by half of the shadows.

    >>> halves(8, 3, seed=0).sum(0).tolist()
    [4, 4, 4]
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(rng.random((shadows, samples)), axis=0).argsort(axis=0)
    return order < shadows // 2


def _shadow_stream(about: Subject, present: np.ndarray[Any, np.dtype[np.bool_]]) -> Sequence[Event]:
    half = about.gone.ids[present.nonzero()[0]].tolist()
    stay = {i for e in about.remaining for i in e.reference.ids.tolist()} | set(half)
    lessons = []
    for e in about.learned:
        absent = e.reference.ids[[i not in stay for i in e.reference.ids.tolist()]]
        if (left := e.without(ids=absent)) is not None:
            lessons.append(left)
    alive = {c for e in lessons for c in e.classes}
    of = dict(zip(about.gone.ids.tolist(), about.gone.labels.tolist(), strict=True))
    single = [i for i in half if of[i] not in about.vanished]
    whole = [c for c in about.vanished if c in alive]
    if not (whole or single):  # of a few samples, half can be none
        return lessons
    return [*lessons, forget_request("audit-shadow", lessons, whole, (), single)]


def _confidence(learner: Learner, about: Subject) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the logit-scaled confidence in the true class of each forgotten sample, and whether it has an output."""
    p, at = probabilities(learner, about.gone), {c: i for i, c in enumerate(learner.model.classes)}
    columns = np.array([at.get(c, -1) for c in about.gone.labels.tolist()])
    out = np.full(len(columns), 0.5)
    out[columns >= 0] = p[columns >= 0, columns[columns >= 0]]
    return membership.logit_scaled(out), columns >= 0

"""Content of a receipt: method, data, effect and residue of a forget request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_framework.engine.journal import Cost
from cl_framework.engine.learner import Learner
from cl_framework.evaluation import staying
from cl_framework.evaluation.measurements import Measurements
from cl_framework.memory.exemplars import Memory
from cl_framework.methods.base import Unlearner
from cl_framework.metrics.continual import micro_accuracy
from cl_framework.runs import receipts
from cl_framework.settings import source_hash
from cl_framework.settings.ranges import settings_of
from cl_framework.streams.events import ForgetRequest
from cl_framework.streams.seeds import seed_for

SEMANTIC = "not examined here; `clf audit` examines it"


def receipt_of(
    run: Path,
    learner: Learner,
    event: ForgetRequest,
    measurements: Measurements,
    cost: Cost,
    before: Measurements | None,
    origin: Mapping[str, Any],
    requester: str | None = None,
    foreign: int = 0,
) -> dict[str, Any]:
    """Return a receipt's draft.

    Args:
        run: The run directory, which holds the key.
        learner: In the state after the request.
        event: The request.
        measurements: Measurements after it.
        cost: Its cost.
        before: Measurements after the event before it, if there was one.
        origin: Hashes of the data, the config and the versions the run was started with.
        requester: The requester.
        foreign: How many files in the run directory are not the run's own, so that they were not checked.
    """
    unlearner = learner.unlearner
    assert unlearner is not None
    assert measurements.forget is not None
    settings = settings_of(unlearner)
    strange = f" Files here that the run did not write were not looked into: {foreign}." if foreign else ""
    return receipts.draft(
        run,
        event.name,
        event.classes,
        event.data.ids.tolist(),
        type(unlearner).__name__,
        unlearner.exact,
        {
            "forget": measurements.forget.accuracy_before,
            "live": before and micro_accuracy(before.hits.values()),
            "old": before and micro_accuracy(before.old.values()),
        },
        {
            "forget": measurements.forget.accuracy_after,
            "live": micro_accuracy(measurements.hits.values()),
            "old": measurements.forget.accuracy_old,
        },
        event.experiences,
        requester,
        settings={"values": settings, "sha256": _hash(json.dumps(settings, sort_keys=True).encode())},
        code=code_hash(learner),
        **origin,
        missing=sorted(event.missing),
        read={"trained_on": dict(cost.read), **{f"passes_{k}": cost.passes[k] for k in ("train", "statistics")}},
        seconds=round(cost.seconds, 3),
        seed={"run": learner.model.seed, "request": seed_for(event.name, learner.model.seed)},
        verified=levels(learner, event, unlearner),
        semantic=SEMANTIC,
        notes=measurements.forget.notes,
        residual=residual(learner, event, unlearner) + strange,
    )


def levels(learner: Learner, event: ForgetRequest, unlearner: Unlearner) -> list[str]:
    """Return the verification levels that hold, as `docs/receipts.md` defines them.

    ``physical`` is claimed if the learner keeps no sample and no feature of the forget set; the run writes the line
    after all earlier files are cleaned too.
    """
    gone, reached = set(event.data.ids.tolist()), []
    if not set(event.classes) & set(learner.model.classes):
        reached.append("logical")
    parts = [m for m in learner.strategy.modules() if isinstance(m, Memory)]
    remembered = any(e.experience in event.experiences and gone & set(m.ids[e].tolist()) for m in parts for e in m.ids)
    stored = any(
        bool(learner.model.store.known(key, s.ids).any())
        for s in event.reference.sources
        if s.key is not None
        for key in learner.model.store.keys(s.key)
    )
    if reached and not remembered and not stored:
        reached.append("physical")
    if unlearner.exact and not event.inherited:
        reached.append("model")
    return reached


def residual(learner: Learner, event: ForgetRequest, unlearner: Unlearner) -> str:
    """Describe what remains of the forget set, in words."""
    stays = staying.staying_sentence(event.stays, lambda c: f"id:{c}")
    always = f"Of what was asked for, {stays}. " if stays else ""
    always += (
        "Ids of classes, names of experiences, how many samples went, and accuracies stay on record; so do choices "
        "that were made with the target at hand, such as hyperparameters and the order of classes."
    )
    if event.inherited:
        always = f"The frozen backbone's own pre-training met the target, and stays. {always}"
    if unlearner.exact and unlearner.tolerance:
        return f"Sums that held the target stay; it was taken out of them again, up to rounding. {always}"
    if unlearner.exact:
        return f"No trained tensor that met the target is left. {always}"
    origins = {**learner.model.adapters.origins, "the head's other rows": learner.model.head.origin}
    touched = [n for n, o in origins.items() if not event.taken.keys().isdisjoint(o)]
    names = ", ".join(touched) if touched else "all that is shared"
    return f"Edited, not retrained: tensors that met the target stay ({names}) and may still tell of it. {always}"


def code_hash(learner: Learner) -> str:
    """Return a hash of the sources that determine the outcome: the core, the strategy, the unlearner."""
    kinds = (type(learner.strategy), type(learner.unlearner), type(learner.model.backbone))
    return source_hash.source_digest(source_hash.sources_of(kinds))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

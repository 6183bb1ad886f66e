"""Effect of a forget request on every artifact of a learner, and what still depends on its samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cl_framework.engine.learner import Learner
from cl_framework.engine.lineage import Artifact, artifacts
from cl_framework.engine.sample_index import Contents
from cl_framework.memory.provenance import TrainedOn
from cl_framework.methods.base import Unlearner
from cl_framework.streams.events import ForgetRequest
from cl_framework.streams.origins import Cell

Action: TypeAlias = Literal["keep", "delete", "subtract", "retrain", "edit", "rewrite", "redact"]

NEVER, TOGETHER = "never met what goes", "edited together with the adapters that met what goes"
ACTIONS: dict[str, Action] = {
    "drop": "retrain", "subtract": "subtract", "edit": "edit", "stack": "keep", "rows": "keep",
}  # fmt: skip
WHY = {
    "drop": "made again from what remains of its experience",
    "subtract": "a sum over samples, out of which those that go are taken",
    "edit": "edited in place: what it met is counteracted, not taken out",
}
KEPT = {
    "stack": "stays as it is beside the edit, and still holds what it met",
    "rows": "only rows of the head go; it still holds what it met",
}


@dataclass(frozen=True, slots=True)
class Treatment:
    """Effect of a request on an artifact, and the reason."""

    artifact: Artifact
    action: Action
    why: str


def treatments(learner: Learner, event: ForgetRequest, unlearner: Unlearner) -> list[Treatment]:
    """Resolve a request against everything that a learner holds."""
    touched, ids = frozenset(event.taken), frozenset(event.data.ids.tolist())
    left = {e.name for e in event.remaining}
    return [Treatment(a, *_treated(a, event, unlearner, touched, ids, left)) for a in artifacts(learner)]


def outlived(
    learner: Learner, event: ForgetRequest, planned: Iterable[Treatment], read: Collection[int]
) -> dict[str, tuple[str, ...]]:
    """Return which requests a learner's state has outlived, after ``event``.

    Args:
        learner: In the state after the request.
        event: The request.
        planned: The treatments, resolved before.
        read: The samples that it trained on.
    """
    stayed = {t.artifact.holder: t.artifact for t in planned if t.action not in ("delete", "retrain")}
    requests = {holder: old for holder, old in learner.model.outlived.items() if holder in stayed}
    if learner.unlearner is None or learner.unlearner.exact:
        return requests
    again = {cell for cell, ids in event.taken.items() if not ids.isdisjoint(read)}
    held = {holder for holder, a in stayed.items() if _holds(a, event.taken)}
    trained = [a for a in artifacts(learner) if a.made and a.holder.startswith("model.")]
    held |= {a.holder for a in trained if not again.isdisjoint(a.made[0].origin)}
    return requests | {holder: (*requests.get(holder, ()), event.name) for holder in sorted(held)}


def _holds(a: Artifact, taken: Contents) -> bool:
    """Tell whether some of the samples ``taken`` went into an artifact."""
    mine = a.made[0] if a.made else TrainedOn(())
    return any(cell in taken and taken[cell] & mine.parts.get(cell, taken[cell]) for cell in mine.origin)


def _treated(
    a: Artifact,
    event: ForgetRequest,
    unlearner: Unlearner,
    touched: frozenset[Cell],
    ids: frozenset[int],
    left: set[str],
) -> tuple[Action, str]:
    kept_rows = unlearner.keep_rows
    if a.cls in event.classes and not (a.kind in ("head row", "lineage") and kept_rows):
        return "delete", "belongs to a class that goes"
    if (a.space, a.cls) in event.cells and not kept_rows:
        return "delete", "belongs to what an experience brought, and that goes"
    if unlearner.acts == "retrain" and a.kind == "edit":
        return "delete", "what it edited is learned again without it"
    if unlearner.acts == "retrain":
        return "retrain", "everything is learned again from what remains"
    if a.rows & ids or a.columns & set(event.classes):
        return "delete" if a.rows and a.rows <= ids else "edit", "rows and columns of what goes are cut"
    if a.ids is not None:
        whole, some = a.ids <= ids and a.kind != "lineage", bool(a.ids & ids)
        return ("delete" if whole else "edit", "holds samples that go, by id") if some else ("keep", NEVER)
    if touched.isdisjoint(a.origin):
        together = unlearner.acts == "edit" and a.kind == "adapter"
        return ("edit", TOGETHER) if together else ("keep", NEVER)
    if unlearner.acts in ("drop", "subtract") and a.space is not None and a.kind != "sums":
        whole = a.space not in left
        return ("delete", "belongs to an experience that goes as a whole") if whole else ("retrain", WHY["drop"])
    if unlearner.acts == "edit" and a.kind != "adapter":
        return "keep", KEPT["stack"]
    return ACTIONS[unlearner.acts], WHY.get(unlearner.acts) or KEPT[unlearner.acts]

"""Check after a forget request: what it says is forgotten is no longer in the learner."""

from __future__ import annotations

from collections.abc import Iterator

from cl_framework.engine.learner import Learner
from cl_framework.engine.lineage import artifacts
from cl_framework.errors import UserError
from cl_framework.methods.base import Unlearner
from cl_framework.streams import origins
from cl_framework.streams.events import ForgetRequest


def check_removed(learner: Learner, event: ForgetRequest, unlearner: Unlearner) -> None:
    """Require that forgotten classes and cells are gone, and for an exact unlearner all that depends on them.

    An approximate unlearner with ``keep_rows`` may keep the classes. Whether a class that stays was learned again
    without some of its samples cannot be seen from its origin; audits measure that.

    Args:
        learner: In the state after the request.
        event: The request.
        unlearner: What carried it out.

    Raises:
        UserError: If something is left.
    """
    kept = list(_classes_left(learner, event)) if unlearner.exact or not unlearner.keep_rows else []
    if not kept and unlearner.exact:
        kept = list(_state_left(learner, event))
    if not kept:
        return
    name, shown = type(unlearner).__name__, ", ".join(kept[:4]) + (f" and {len(kept) - 4} more" if kept[4:] else "")
    exact = " and, as it is exact, delete or learn again all state that depends on them" if unlearner.exact else ""
    raise UserError(
        f"{name} left what {event.name!r} forgets in the learner: {shown}; {name}.forget must call "
        f"remove_forgotten(model, strategy, event){exact}. Nothing of it was kept; the run is as it was before this "
        "request."
    )


def _classes_left(learner: Learner, event: ForgetRequest) -> Iterator[str]:
    model = learner.model
    live = [c for c in event.classes if c in model.classes]
    yield from (f"class {c}" for c in live)
    brought = origins.cells_of(model.brought)
    yield from (
        f"class {c} of {e}" for e, c in brought if c not in live and ((e, c) in event.cells or c in event.classes)
    )


def _state_left(learner: Learner, event: ForgetRequest) -> Iterator[str]:
    ids = frozenset(event.data.ids.tolist())
    for a in artifacts(learner):
        if a.cls in event.classes or not event.cells.isdisjoint(a.origin) or (a.ids and a.ids & ids):
            yield f"{a.kind} {a.name}".rstrip()

"""Plans of an event, from the strategy or the unlearner, with the seed of that event.

`lesson` serves the engine, and unlearners that learn an experience again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from cl_framework.errors import UserError
from cl_framework.memory.exemplars import Memory
from cl_framework.methods.base import Plan, Strategy, Unlearner
from cl_framework.methods.compatibility import check_inherited, check_known, check_request
from cl_framework.models.model import Model
from cl_framework.streams.events import Event, Experience
from cl_framework.streams.seeds import seed_for


def plans(model: Model, strategy: Strategy, unlearner: Unlearner | None, event: Event) -> Iterable[Plan]:
    """Return the plans of ``event`` from the strategy or the unlearner.

    Raises:
        UserError: If the request must be refused; nothing has changed then. In the plans: if one is none or is empty.
    """
    if isinstance(event, Experience):
        return lesson(model, strategy, event)
    able = check_request(model, strategy, unlearner, event)
    check_known(model, event)
    torch.manual_seed(seed_for(event.name, model.seed))
    return _checked(able.forget(model, strategy, event), f"{type(able).__name__}.forget")


def lesson(model: Model, strategy: Strategy, event: Experience) -> Iterable[Plan]:
    """Return the plans that learn ``event``, the first time and again: same seed, same plans; none without classes.

    Raises:
        UserError: If the event is inherited from the backbone's own classifier, and the strategy cannot adopt that.
    """
    torch.manual_seed(seed_for(event.seed_source, model.seed))
    if not event.classes:
        return
    if event.inherited:
        model.inherit(event, check_inherited(model, strategy, event))
        for part in strategy.modules():
            if isinstance(part, Memory):
                part.keep(event)
    else:
        model.meet(event)
        yield from _checked(strategy.learn(model, event), f"{type(strategy).__name__}.learn")


def _checked(given: object, method: str) -> Iterator[Plan]:
    """Yield plans that can be trained; ``method`` is what returned them, for the message."""
    if not isinstance(given, Iterable):
        raise UserError(f"{method} returned {given!r}; yield plans, or return () if nothing is to be trained.")
    for plan in given:
        if not isinstance(plan, Plan):
            raise UserError(f"{method} yielded {type(plan).__name__}, no Plan; yield Plan(event.data, parameters).")
        if not isinstance(plan.params, Iterable) or isinstance(plan.params, Iterator):  # which is empty when read again
            raise UserError(f"{method} yielded a plan whose params are {type(plan.params).__name__}; give it a list.")
        if not plan.parameters():
            raise UserError(f"{method} yielded a plan without params; give it some, or yield none to train nothing.")
        yield plan

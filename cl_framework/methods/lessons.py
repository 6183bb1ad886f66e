"""What an event calls for: plans of the strategy or of the unlearner, with the seed of that event.

`lesson` serves the engine, and unlearners that learn an experience again.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cl_framework.memory.exemplars import Memory
from cl_framework.methods.base import Plan, Strategy, Unlearner
from cl_framework.methods.compatibility import check_inherited, check_known, check_request
from cl_framework.models.model import Model
from cl_framework.streams.events import Event, Experience
from cl_framework.streams.seeds import seed_for


def plans(model: Model, strategy: Strategy, unlearner: Unlearner | None, event: Event) -> Iterable[Plan]:
    """Ask the strategy, or the unlearner, which plans ``event`` calls for.

    Raises:
        UserError: If the request cannot be honoured; nothing has changed then.
    """
    if isinstance(event, Experience):
        return lesson(model, strategy, event)
    able = check_request(model, strategy, unlearner, event)
    check_known(model, event)
    torch.manual_seed(seed_for(event.name, model.seed))
    return able.forget(model, strategy, event)


def lesson(model: Model, strategy: Strategy, event: Experience) -> Iterable[Plan]:
    """Learn ``event`` as it is learned the first time and every time: same seed, same plans; without classes, none.

    Raises:
        UserError: If the backbone's own classifier is said to know it, and the strategy cannot take that up.
    """
    torch.manual_seed(seed_for(event.dice, model.seed))
    if not event.classes:
        return
    if event.inherited:
        model.inherit(event, check_inherited(model, strategy, event))
        for part in strategy.modules():
            if isinstance(part, Memory):
                part.keep(event)
    else:
        model.meet(event)
        yield from strategy.learn(model, event)

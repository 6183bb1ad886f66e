"""How an experience is learned apart from the stream: by the engine, and again by unlearners that retrain."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cl_framework.memory.exemplars import Memory
from cl_framework.methods.base import Plan, Strategy
from cl_framework.methods.compatibility import check_inherited
from cl_framework.models.model import Model
from cl_framework.streams.events import Experience
from cl_framework.streams.seeds import seed_for


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

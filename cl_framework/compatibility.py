"""Which way of forgetting can honour a request: why one cannot, and which of those that are installed can."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

from cl_framework import plugins
from cl_framework.editing import unsuited
from cl_framework.model import Model
from cl_framework.strategy import Strategy, Unlearner
from cl_framework.stream import ForgetRequest


def objection(unlearner: Unlearner, model: Model, strategy: Strategy, event: ForgetRequest, nth: int = 1) -> str | None:
    """Return why an unlearner cannot honour ``event``, the ``nth`` request to come; None when it can."""
    needs = unlearner.needs if event.remaining else unlearner.needs - {"retain"}
    if lacking := sorted(needs & event.missing):
        return f"it reads the samples to {' and to '.join(lacking)}, which cannot be had"
    if not unlearner.exact and (unfit := unsuited(strategy, event)):
        return unfit
    if unlearner.acts == "stack" and not model.adapters.adapter.several:
        return "it puts its edit on top of what is in use, and such adapters are used one at a time"
    if unlearner.acts == "stack" and not model.adapters.adapter.neutral:
        return "its edit begins as one that changes nothing, and such adapters change features from birth"
    return unlearner.objection(model, strategy, event) or unlearner.runs_out(model, nth)


def instead(model: Model, strategy: Strategy, event: ForgetRequest, nth: int = 1) -> str:
    """Say which unlearners, as they are set by default, can honour a request, or what they would need for it."""
    if names := able(model, strategy, event, nth):
        return f"Use one that can: {', '.join(names)}."
    whole = dataclasses.replace(event, missing=frozenset())
    if event.missing and (names := able(model, strategy, whole, nth)):
        lacking = " and ".join(sorted(event.missing))
        return f"None can without the samples to {lacking}; with them at hand, these can: {', '.join(names)}."
    return "None of those that `clf list unlearners` names can."


def able(model: Model, strategy: Strategy, event: ForgetRequest, nth: int = 1) -> list[str]:
    """Return the names of all installed unlearners that can honour a request as they are set by default."""
    found = []
    for kind in plugins.installed("unlearners"):
        with suppress(TypeError):  # has arguments without a default, so it cannot be asked
            found += [kind.__name__] if objection(kind(), model, strategy, event, nth) is None else []
    return found

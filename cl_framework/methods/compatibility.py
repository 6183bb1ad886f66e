"""Compatibility of model, strategy and unlearner with each other and with an event: objections, checks, alternatives.

Pure functions, called before anything changes: `check_adapter` when a config is read, `check_events` when a stream is
known, `check_request` when a forget request arrives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from cl_framework.adapters.base import Adapter
from cl_framework.backbones.base import Backbone
from cl_framework.errors import UserError
from cl_framework.methods.base import Strategy, Unlearner
from cl_framework.models.model import Model
from cl_framework.settings import discovery
from cl_framework.streams.events import Event, Experience, ForgetRequest
from cl_framework.terminal.safe_text import printable


def check_events(
    model: Model,
    strategy: Strategy,
    unlearner: Unlearner | None,
    events: Iterable[Event],
    names: Sequence[str] = (),
    otherwise: str = "",
) -> None:
    """Require that coming events can be carried out, as soon as they are known.

    Args:
        model: The model.
        strategy: The strategy.
        unlearner: The unlearner; None if there is none.
        events: The events.
        names: Name of each class id, for the message.
        otherwise: What else the user can do where a class comes again.

    Raises:
        UserError: If one cannot, and why.
    """
    requests, known = 0, set(model.known)
    for event in events:
        if isinstance(event, ForgetRequest):
            check_request(model, strategy, unlearner, event, requests := requests + 1)
            known -= set(event.classes)
            continue
        if event.inherited:
            check_inherited(model, strategy, event)
        check_repeated(strategy, event, known, names, otherwise)
        known |= set(event.classes)


def check_request(
    model: Model, strategy: Strategy, unlearner: Unlearner | None, event: ForgetRequest, nth: int = 1
) -> Unlearner:
    """Return the unlearner if it can carry out ``event``, the ``nth`` request to come, before anything is learned.

    Raises:
        UserError: If there is none or it objects, naming those that can.
    """
    if unlearner is None:
        raise UserError(f"{event.name!r} asks to forget, but no unlearner is set; add `--model.unlearner DropAdapter`.")
    if why := objection(model, strategy, unlearner, event, nth):
        name, else_ = type(unlearner).__name__, instead(model, strategy, event, nth)
        raise UserError(f"{name} cannot honour {event.name!r}: {why}. {else_}")
    return unlearner


def check_known(model: Model, event: ForgetRequest) -> None:
    """Require that a model knows every class that ``event`` forgets altogether.

    Raises:
        UserError: If it does not.
    """
    if missing := [c for c in event.classes if c not in model.known]:
        raise UserError(f"Cannot forget class {missing[0]}: never learned, or already gone. Alive: {model.classes}.")


def objection(model: Model, strategy: Strategy, unlearner: Unlearner, event: ForgetRequest, nth: int = 1) -> str | None:
    """Return why an unlearner cannot carry out ``event``, the ``nth`` request to come; None if it can."""
    return (
        unfit(model, strategy, type(unlearner), event)
        or unlearner.objection(model, strategy, event)
        or unlearner.runs_out(model, nth)
    )


def unfit(model: Model, strategy: Strategy, kind: type[Unlearner], event: ForgetRequest) -> str | None:
    """Return why no unlearner of a class can carry out ``event`` with any settings; None if one may."""
    needs = kind.needs if event.remaining else kind.needs - {"retain"}
    if lacking := sorted(needs & event.missing):
        return f"it reads the samples to {' and to '.join(lacking)}, which cannot be had"
    if not kind.exact and (why := unsuited(strategy, event)):
        return why
    if kind.acts == "stack" and not model.adapters.adapter.several:
        return "it puts its edit on top of what is in use, and such adapters are used one at a time"
    if kind.acts == "stack" and not model.adapters.adapter.neutral:
        return "its edit begins as one that changes nothing, and such adapters change features from birth"
    return None


def instead(model: Model, strategy: Strategy, event: ForgetRequest, nth: int = 1) -> str:
    """Return which unlearners with default settings can carry out a request, or what they would need for it."""
    if names := capable(model, strategy, event, nth):
        return f"Use one that can: {', '.join(names)}."
    whole = dataclasses.replace(event, missing=frozenset())
    if event.missing and (names := capable(model, strategy, whole, nth)):
        lacking = " and ".join(sorted(event.missing))
        return f"None can without the samples to {lacking}; with them at hand, these can: {', '.join(names)}."
    return "None of those that `clf list unlearners` names can."


def capable(model: Model, strategy: Strategy, event: ForgetRequest, nth: int = 1) -> list[str]:
    """Return the names of all installed unlearners that can carry out a request with default settings.

    Those with a setting that has no default come last, with what to set: only what holds for every setting is known.
    """
    can, may = [], []
    for kind in discovery.installed("unlearners"):
        if unfit(model, strategy, kind, event):
            continue
        if settings := discovery.required(kind):
            may.append(f"perhaps {kind.__name__} (set {' and '.join(settings)})")
            continue
        with suppress(Exception):  # the refusal is of another unlearner; a fault of this one must not replace it
            can += [kind.__name__] if objection(model, strategy, kind(), event, nth) is None else []
    return can + may


def unsuited(strategy: Strategy, event: ForgetRequest) -> str | None:
    """Refuse to edit state that can be forgotten exactly, and where no sample or other class stays."""
    name = type(strategy).__name__
    if strategy.subtracts and strategy.loses_first_experience(event):
        return f"{name} sums up features that were tuned on {event.first!r}, and an edit would not change its sums"
    if strategy.isolates is not None or strategy.subtracts:
        exact = "Subtract" if strategy.subtracts else "DropAdapter"
        return f"{name} keeps what it learns apart and forgets exactly with {exact}"
    if not event.remaining:
        return "an edit has to keep something, and nothing would stay"
    alive = {*event.classes, *(c for e in event.remaining for c in e.classes)}
    return None if len(alive) > 1 else "an edit turns answers into others, and there is only one class"


def suits(adapter: Adapter, backbone: Backbone, kind: type | None) -> bool:
    """Tell whether whatever ``adapter`` builds for ``backbone`` is of a kind; None stands for any."""
    with torch.random.fork_rng(devices=[]):  # the check must not change random numbers
        built = [r for site in backbone.sites().values() if (r := adapter.build(site)) is not None]
    return kind is None or (bool(built) and all(isinstance(r, kind) for r in built))


def check_adapter(model: Model, strategy: Strategy) -> None:
    """Require that a strategy can use its adapters; known as soon as the config is read.

    Raises:
        UserError: If there is no site for them, or they consist of other rewrites.
    """
    if model.adapters.adapter.coupled and strategy.rewrites is None:
        raise UserError(
            f"With {type(model.adapters.adapter).__name__} as it is set a prediction depends on the rest of its batch, "
            f"and {type(strategy).__name__} promises that it does not; let each sample stand for itself."
        )
    if strategy.competes is None:  # it trains nothing
        return
    if model.adapters.lacking:
        raise UserError(model.adapters.lacking)
    adapter, kind = model.adapters.adapter, strategy.rewrites
    if strategy.several and not adapter.several:
        raise UserError(
            f"{type(strategy).__name__} puts several adapters in use at once, and of {type(adapter).__name__} as it is "
            "set one would undo the other; set `model.adapter` to one that adds, such as LoRA."
        )
    if kind is None or suits(adapter, model.backbone, kind):
        return
    fitting = []
    for other in discovery.installed("adapters"):
        with suppress(Exception):  # a fault of another adapter must not replace the message
            if not discovery.required(other) and suits(other(), model.backbone, kind):
                fitting.append(other.__name__)
    raise UserError(
        f"{type(strategy).__name__} works on {kind.__name__} adapters, and {type(adapter).__name__} is none; "
        f"set `model.adapter: {' or '.join(sorted(fitting)) or 'one that is'}`."
    )


def check_inherited(model: Model, strategy: Strategy, event: Experience) -> Mapping[str, Tensor]:
    """Return the backbone's own classifier if a strategy can adopt its classes.

    Raises:
        UserError: If it has no shared head, or the backbone has no classifier that fits the model's head.
    """
    if strategy.isolates is not None or strategy.subtracts or not strategy.adopts:
        why = "has no shared head to take it up" if strategy.adopts else "needs more than its rows"
        raise UserError(
            f"{event.name!r} is what the pre-trained classifier knows, and {type(strategy).__name__} {why}; "
            "use Finetune or Joint."
        )
    if (rows := model.backbone.classifier()) is None:
        raise UserError(f"{model.backbone.name} has no pre-trained classifier to begin with; learn the classes.")
    model.head.fits(event.inherited, rows)
    return rows


def check_repeated(
    strategy: Strategy, event: Experience, known: Collection[int], names: Sequence[str] = (), otherwise: str = ""
) -> None:
    """Require that a strategy can learn an experience beside the classes that are ``known`` before it.

    Args:
        strategy: The strategy.
        event: The experience.
        known: Ids of live classes.
        names: Name of each class id, for the message.
        otherwise: What else the user can do, for the message.

    Raises:
        UserError: If the experience brings one of them again and the strategy files each class where it first came, or
            if rows of a pre-trained classifier would replace learned state.
    """
    if not (again := sorted(set(event.classes) & set(known))) or (strategy.repeats and not event.inherited):
        return
    called = f"{printable(names[again[0]])} (id:{again[0]})" if names else str(again[0])
    brings, or_else = f"{event.name!r} brings class {called} again", f", or {otherwise}" if otherwise else ""
    if event.inherited:
        raise UserError(f"{brings}, as the pre-trained classifier knows it; leave it out of the stream{or_else}.")
    able = [c.__name__ for c in discovery.installed("strategies") if getattr(c, "repeats", False)]
    raise UserError(
        f"{brings}, and {type(strategy).__name__} learns a class once; use one that learns more of it: "
        f"{', '.join(able)}{or_else}."
    )

"""The interface a method implements: say what to train, then carry on."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from cl_framework import plugins
from cl_framework.adapter import Adapter
from cl_framework.backbone import Backbone
from cl_framework.errors import UserError
from cl_framework.memory import Memory
from cl_framework.model import Model
from cl_framework.printable import printable
from cl_framework.stream import Batch, Experience, ForgetRequest, Inputs, Need, Samples

Loss: TypeAlias = Callable[[Model, Batch], Tensor]
Params: TypeAlias = Sequence[nn.Parameter] | Sequence[dict[str, Any]]


def classify(model: Model, batch: Batch) -> Tensor:
    """Return the cross-entropy of the model's head on a batch, over every class that has a row."""
    return cross_entropy(model(batch.x), model.head.index(batch.y))


def classify_among(model: Model, scores: Tensor, y: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the cross-entropy over the rows of ``classes`` only: other rows get no gradient.

    Args:
        model: Whose head has the rows.
        scores: ``(n, rows)``.
        y: ``(n,)`` class ids, all of them among ``classes``.
        classes: The classes to tell from one another.
    """
    among = model.head.index(torch.tensor(classes, device=y.device))
    right = scores.gather(1, model.head.index(y)[:, None])[:, 0]
    return (scores[:, among].logsumexp(1) - right).mean()


@dataclass(frozen=True, slots=True)
class Plan:
    """A stretch of training, described instead of hooked into.

    Attributes:
        data: What to iterate over; replay is a concatenation.
        params: What may change, as parameters or optimiser groups; nothing else will. A group's ``lr_factor`` is its
            share of the learning rate.
        loss: What to minimise on each batch.
        epochs: Passes over the data; None defers to the trainer section.
        optimizer: How to minimise; None defers to the model section.
        edit_gradients: Called between backward and step.
        after_step: Called after each step: merging, averages, proximal steps.
        batch_size: Samples per step; None defers to the data section.
        schedule: How the learning rate falls; None defers to the model section.
        against: Known classes that the loss tells samples from by what is kept of them, such as means or rows of the
            head. Lineage counts them among what was met.
    """

    data: Samples
    params: Params
    loss: Loss = classify
    epochs: int | None = None
    optimizer: Callable[[Params], Optimizer] | None = None
    edit_gradients: Callable[[Model], None] | None = None
    after_step: Callable[[Model], None] | None = None
    batch_size: int | None = None
    schedule: Literal["cosine", "constant"] | None = None
    against: Sequence[int] = ()


class Strategy(nn.Module, ABC):
    """How to learn an experience, and how to answer afterwards.

    State lives in parts (`Ledger`, `Head`, the model's adapters) that are saved, moved and erased with it.

    Attributes:
        isolates: What has its state to itself: each ``class``, each ``experience``, or None when all is shared.
            Where it is not None, ``learn`` fills in only what is missing, so that a part can be learned again.
        derived: What it works out from its state and never stores, for lineage to name.
        rewrites: What adapters must be made of for it, such as `LowRank`; None takes any.
        repeats: Whether it can learn more of a class that it knows, as domain-incremental streams ask.
        several: Whether it puts several adapters in use at once, so that one must not undo another.
        adopts: Whether it can take up classes of which nothing is known but their rows in a pre-trained classifier.
        competes: What its loss tells a new class from: all classes that are ``known``, or the ``new`` ones of the same
            experience only, so that one alone gives no gradient; None if it trains nothing.
        widens: The setting that makes known classes compete too, where there is one.
        founded: Whether all it knows rests on what it trained on the first experience: when that loses something,
            everything has to be learned again.
    """

    isolates: Literal["class", "experience"] | None = None
    derived: ClassVar[tuple[str, ...]] = ()
    rewrites: ClassVar[type | None] = None
    several: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    adopts: bool = True
    competes: Literal["new", "known"] | None = "known"
    widens: ClassVar[str] = "compete all"
    founded: bool = False

    def unfounded(self, event: ForgetRequest) -> bool:
        """Tell whether ``event`` takes away from the first experience what everything rests on."""
        return self.founded and event.first in event.experiences

    def rereads(self, event: ForgetRequest) -> bool:
        """Tell whether to forget ``event`` exactly samples are read that stay: they were learned with what goes."""
        if self.unfounded(event):
            return bool(event.remaining)
        if self.isolates == "class":
            return bool(event.thinned)
        return self.isolates == "experience" and not {e.name for e in event.remaining}.isdisjoint(event.experiences)

    def subtract(self, model: Model, gone: Samples, experience: str) -> None:
        """Take samples out of sums they were added to; only strategies whose whole state is such sums can.

        Args:
            model: What the sums were made with.
            gone: The samples, with the test transform.
            experience: What brought them.

        Raises:
            NotImplementedError: If this strategy is not one of them; `subtracts` tells beforehand.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no sums that samples could be taken out of.")

    @property
    def subtracts(self) -> bool:
        """Whether single samples can be taken out of its state."""
        return type(self).subtract is not Strategy.subtract

    @abstractmethod
    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Yield each stretch of training that ``event`` calls for.

        Usually a generator: what stands before a ``yield`` prepares, the yielded plan is trained, what stands after
        consolidates. Two yields make two phases; none is closed form.
        """

    @abstractmethod
    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return scores ``(n, len(model.classes))``, columns as in ``model.classes``; no task label is given.

        Args:
            model: What to ask.
            x: Inputs for an answer. A tensor asks for scores that can be differentiated, as unlearners do.
        """


class Unlearner(nn.Module, ABC):
    """How to carry out a forget request. Works like ``Strategy.learn``.

    Attributes:
        exact: Whether what comes out equals the learner that never met what was forgotten. One that is not is refused
            where the strategy forgets exactly, and where an edit would leave nothing (`editing.unsuited`).
        acts: What it does to state that met what must go: ``drop`` what was had apart and make the rest of it again,
            ``subtract``, ``retrain`` everything, ``edit`` adapters in place, put an edit on the ``stack``, or take only
            the head's ``rows``. Lineage foretells from it what becomes of every artifact.
        tolerance: How far an exact one may be from it; 0 is bit for bit.
        needs: Samples it always reads at request time; it is refused where they cannot be had.
    """

    exact: ClassVar[bool] = False
    acts: ClassVar[Literal["drop", "subtract", "retrain", "edit", "stack", "rows"]] = "edit"
    tolerance: ClassVar[float] = 0.0
    needs: ClassVar[frozenset[Need]] = frozenset()

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Return why the request cannot be honoured, before anything changes; None when it can."""
        return None

    def runs_out(self, model: Model, requests: int) -> str | None:
        """Return why its settings do not last for so many more requests; None when they do, as most always do."""
        return None

    @abstractmethod
    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Yield each stretch of training that ``event`` calls for."""

    def notes(self, model: Model, event: ForgetRequest) -> dict[str, float]:
        """Return numbers about what was just done, for the results and the receipt; most have none."""
        return {}


def seed_for(name: str, seed: int) -> int:
    """Derive a seed from an event's name alone, so that history leaves no mark on the dice.

    >>> seed_for("task-0", 1) == seed_for("task-0", 1) != seed_for("task-1", 1)
    True
    """
    return zlib.crc32(f"{seed}/{name}".encode())


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


def suits(adapter: Adapter, backbone: Backbone, kind: type | None) -> bool:
    """Tell whether whatever ``adapter`` builds for ``backbone`` is of a kind; None stands for any."""
    with torch.random.fork_rng(devices=[]):  # asking must not move the dice
        built = [r for site in backbone.sites().values() if (r := adapter.build(site)) is not None]
    return kind is None or (bool(built) and all(isinstance(r, kind) for r in built))


def check_adapter(model: Model, strategy: Strategy) -> None:
    """Make sure that a strategy can work with the adapters it is given; known as soon as the config is read.

    Raises:
        UserError: If there is no place for them, or they are made of something else.
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
    for other in plugins.installed("adapters"):
        with suppress(TypeError):  # has arguments without a default, so it cannot be asked
            fitting += [other.__name__] if suits(other(), model.backbone, kind) else []
    raise UserError(
        f"{type(strategy).__name__} works on {kind.__name__} adapters, and {type(adapter).__name__} is none; "
        f"set `model.adapter: {' or '.join(sorted(fitting)) or 'one that is'}`."
    )


def check_inherited(model: Model, strategy: Strategy, event: Experience) -> Mapping[str, Tensor]:
    """Return the backbone's own classifier, once it is sure that a strategy can take up what that knows.

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
    """Make sure that a strategy can learn an experience beside the classes that are ``known`` before it.

    Args:
        strategy: What is to learn it.
        event: What is to be learned.
        known: Ids of the classes that are alive.
        names: What each class id is called, for the message.
        otherwise: What else a person can do, for the message.

    Raises:
        UserError: If the experience brings one of them again and the strategy files each class where it first came, or
            if it would put rows of a pre-trained classifier in the place of what was learned.
    """
    if not (again := sorted(set(event.classes) & set(known))) or (strategy.repeats and not event.inherited):
        return
    called = f"{printable(names[again[0]])} (id:{again[0]})" if names else str(again[0])
    brings, or_else = f"{event.name!r} brings class {called} again", f", or {otherwise}" if otherwise else ""
    if event.inherited:
        raise UserError(f"{brings}, as the pre-trained classifier knows it; leave it out of the stream{or_else}.")
    able = [c.__name__ for c in plugins.installed("strategies") if getattr(c, "repeats", False)]
    raise UserError(
        f"{brings}, and {type(strategy).__name__} learns a class once; use one that learns more of it: "
        f"{', '.join(able)}{or_else}."
    )

"""The interface a method implements: say what to train, then carry on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.methods.losses import Loss, classify
from cl_framework.models.model import Model
from cl_framework.settings.recorded import Recorded
from cl_framework.streams.events import Experience, ForgetRequest, Need
from cl_framework.streams.samples import Inputs, Samples

Params: TypeAlias = Sequence[nn.Parameter] | Sequence[dict[str, Any]]


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

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that may change, whether they are listed or grouped."""
        return [p for g in self.params for p in (g["params"] if isinstance(g, dict) else [g])]


class Strategy(Recorded, nn.Module, ABC):
    """How to learn an experience, and how to answer afterwards.

    State lives in parts (`TensorStore`, `Head`, the model's adapters) that are saved, moved and erased with it.

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


class Unlearner(Recorded, nn.Module, ABC):
    """How to carry out a forget request. Works like ``Strategy.learn``.

    Attributes:
        exact: Whether what comes out equals the learner that never met what was forgotten. One that is not is refused
            where the strategy forgets exactly, and where an edit would leave nothing (`compatibility.unsuited`).
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

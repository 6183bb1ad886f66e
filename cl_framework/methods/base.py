"""The interfaces that methods implement: plans, strategies, unlearners."""

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
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.streams.samples import Samples

Params: TypeAlias = Sequence[nn.Parameter] | Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A stretch of training, described as a value.

    Attributes:
        data: Training samples; replay is a concatenation.
        params: Parameters or optimiser groups that may change; nothing else does. A group's ``lr_factor`` is its
            share of the learning rate.
        loss: Loss of a batch.
        epochs: Passes over the data; None defers to the trainer section.
        optimizer: Optimiser; None defers to the model section.
        edit_gradients: Called between backward and step.
        after_step: Called after each step: merging, averages, proximal steps.
        batch_size: Samples per step; None defers to the data section.
        schedule: Schedule of the learning rate; None defers to the model section.
        against: Known classes that the loss compares with by stored state, such as means or rows of the head. Lineage
            counts them as met.
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
    """A learning method: how to learn an experience, and how to predict afterwards.

    State lives in parts (`TensorStore`, `Head`, the model's adapters) that are saved, moved and erased with it.

    Attributes:
        isolates: Unit with state of its own: each ``class``, each ``experience``, or None when all is shared.
            Where it is not None, ``learn`` fills in only what is missing, so that a part can be learned again.
        derived: Values computed from its state and never stored, for lineage to name.
        rewrites: Rewrite class that adapters must consist of, such as `LowRank`; None takes any.
        repeats: Whether it can learn more of a class that it knows, as domain-incremental streams ask.
        several: Whether it activates several adapters at once, so that one must not undo another.
        adopts: Whether it can adopt classes from their rows in a pre-trained classifier alone.
        competes: Classes that its loss tells a new class from: all classes that are ``known``, or the ``new`` ones of
            the same experience only, so that one alone gives no gradient; None if it trains nothing.
        widens: The setting that makes known classes compete too, where there is one.
        trains_first_only: Whether all its state depends on training on the first experience: when that loses samples,
            everything is learned again.
    """

    isolates: Literal["class", "experience"] | None = None
    derived: ClassVar[tuple[str, ...]] = ()
    rewrites: ClassVar[type | None] = None
    several: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    adopts: bool = True
    competes: Literal["new", "known"] | None = "known"
    widens: ClassVar[str] = "compete all"
    trains_first_only: bool = False

    def loses_first_experience(self, event: ForgetRequest) -> bool:
        """Tell whether ``event`` forgets part of the first experience that all state depends on."""
        return self.trains_first_only and event.first in event.experiences

    def rereads(self, event: ForgetRequest) -> bool:
        """Tell whether forgetting ``event`` exactly reads retained samples that were learned with forgotten ones."""
        if self.loses_first_experience(event):
            return bool(event.remaining)
        if self.isolates == "class":
            return bool(event.thinned)
        return self.isolates == "experience" and not {e.name for e in event.remaining}.isdisjoint(event.experiences)

    def subtract(self, model: Model, gone: Samples, experience: str) -> None:
        """Subtract samples from sums; only for strategies whose whole state is such sums.

        Args:
            model: The model that computed the features.
            gone: The samples, with the test transform.
            experience: The experience that brought them.

        Raises:
            NotImplementedError: If this strategy is not one of them; see `subtracts`.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no sums that samples could be taken out of.")

    @property
    def subtracts(self) -> bool:
        """Whether single samples can be subtracted from its state."""
        return type(self).subtract is not Strategy.subtract

    @abstractmethod
    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Yield the plans of ``event``.

        Usually a generator: code before a ``yield`` prepares, the yielded plan is trained, code after it consolidates.
        Two yields make two phases; none is closed form.
        """

    @abstractmethod
    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return scores ``(n, len(model.classes))``, columns as in ``model.classes``; no task label is given.

        Args:
            model: The model.
            x: Inputs to predict. A tensor asks for differentiable scores, as unlearners need.
        """


class Unlearner(Recorded, nn.Module, ABC):
    """An unlearning method: how to carry out a forget request. Works like ``Strategy.learn``.

    Attributes:
        exact: Whether the result equals the learner that never met the forget set. One that is not exact is refused
            where the strategy forgets exactly, and where an edit would leave nothing (`compatibility.unsuited`).
        acts: What it does to state that met the forget set: ``drop`` separate state and learn the shared rest again,
            ``subtract``, ``retrain`` everything, ``edit`` adapters in place, put an edit on the ``stack``, or delete
            only the head's ``rows``. Lineage predicts from it what happens to every artifact.
        tolerance: Largest difference of an exact one; 0 is bit for bit.
        needs: Sets it always reads at request time; it is refused where they are not available.
        keep_rows: Whether forgotten classes stay in the label space on purpose, so that accuracy on them measures the
            edit alone; only for one that is not exact.
    """

    exact: ClassVar[bool] = False
    acts: ClassVar[Literal["drop", "subtract", "retrain", "edit", "stack", "rows"]] = "edit"
    tolerance: ClassVar[float] = 0.0
    needs: ClassVar[frozenset[Need]] = frozenset()
    keep_rows: bool = False

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Return why the request must be refused, before anything changes; None if it can be carried out."""
        return None

    def runs_out(self, model: Model, requests: int) -> str | None:
        """Return why its settings do not suffice for so many more requests; None if they do."""
        return None

    @abstractmethod
    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Yield the plans of ``event``, and remove from the model and the strategy what it forgets.

        Call `remove_forgotten`, which erases forgotten classes and samples, or erase them with `erase`. Afterwards the
        engine requires that no forgotten class is in ``model.classes`` or ``model.brought``, unless ``keep_rows``, and
        that no state of an exact unlearner depends on forgotten classes; otherwise the request is refused and the
        learner restored.
        """

    def notes(self, model: Model, event: ForgetRequest) -> dict[str, float]:
        """Return numbers about the last request, for results and receipt; most have none."""
        return {}

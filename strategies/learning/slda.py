"""SLDA: linear discriminant analysis on the frozen backbone, from running sums. No training.

Hayes and Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", CVPR
Workshops 2020, after Pang et al., 2005.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.functional import discriminants
from cl_framework.memory import Sums
from cl_framework.methods import Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs, Samples


@final
class SLDA(Strategy):
    """Linear discriminant analysis on frozen features, without training; choose it for exact sums.

    Class means under one shared covariance, shrunk towards the identity.

    Means, counts and covariance are sums over samples, so that ``Subtract`` forgets down to single samples, exactly to
    1e-6.

    Args:
        shrinkage: Share of the identity in the covariance (1e-4 in the paper).
    """

    competes, repeats = None, True
    derived = ("inverse of the shared covariance",)

    def __init__(self, shrinkage: float = 1e-4) -> None:
        """Start with empty sums."""
        super().__init__()
        self.shrinkage, self.sums = shrinkage, Sums()
        self._solved: tuple[object, Tensor, Tensor] | None = None

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Add the classes that are not in the sums yet."""
        if missing := self.sums.missing(event.classes, event.name):
            self.sums.add(*model.embed(event.reference.of(missing), using=()), event.name)
        return ()

    def subtract(self, model: Model, gone: Samples, experience: str) -> None:
        """Subtract samples from the sums."""
        self.sums.subtract(*model.embed(gone, using=()), experience)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return the discriminant of every class."""
        if self._solved is None or self._solved[0] != (self.sums.version, model.classes):
            weights, biases = discriminants(*self.sums.of(model.classes), self.shrinkage)
            self._solved = ((self.sums.version, model.classes), weights.float(), biases.float())
        return model.features(x, ()) @ self._solved[1] + self._solved[2]

"""ACIL: ridge regression on random features of the frozen backbone. No training; all state is a sum.

Zhuang et al., "ACIL: Analytic class-incremental learning with absolute memorization and privacy protection",
NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.functional import RandomFeatures, ridge_weights
from cl_framework.memory import Sums
from cl_framework.methods import Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs, Samples


@final
class ACIL(Strategy):
    """Ridge regression on frozen random features, without training; choose it to forget single samples.

    Ridge regression on ``relu(z R)``, with ``R`` random and fixed (Sec. 3.2); learning adds, forgetting subtracts.

    The paper updates an inverse recursively (Eqs. 3-9); keeping sums and solving when needed gives the same regression.
    Any order of experiences gives the same weights up to rounding, and so does any order of forget requests: down to
    single samples, forgetting is exact to 1e-6 with the unlearner ``Subtract``.

    Args:
        expansion: Number of random features (the paper's buffer size; larger is better and slower).
        ridge: Weight of the penalty.
        seed: Of the random projection, which belongs to the method and is never stored.
    """

    competes, repeats = None, True
    derived = ("weights of the ridge regression",)

    def __init__(self, expansion: int = 1024, ridge: float = 1.0, seed: int = 0) -> None:
        """Start with empty sums."""
        super().__init__()
        self.ridge, self.sums, self._projection = ridge, Sums(), RandomFeatures(expansion, seed)
        self._solved: tuple[object, Tensor] | None = None

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Add the classes that are not in the sums yet."""
        if missing := self.sums.missing(event.classes, event.name):
            self.sums.add(*self._expanded(model, event.reference.of(missing)), event.name)
        return ()

    def subtract(self, model: Model, gone: Samples, experience: str) -> None:
        """Subtract samples from the sums."""
        self.sums.subtract(*self._expanded(model, gone), experience)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the regression solved from the sums."""
        if self._solved is None or self._solved[0] != (self.sums.version, model.classes):
            weights = ridge_weights(*self.sums.of(model.classes)[:2], self.ridge)
            self._solved = ((self.sums.version, model.classes), weights)
        return (self._random(model.features(x, ())) @ self._solved[1]).float()

    def _expanded(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        z, y = model.embed(samples, using=())
        return self._random(z), y

    def _random(self, z: Tensor) -> Tensor:
        return self._projection(z / z.shape[1] ** 0.5)

"""SimpleCIL: a class is the mean of its frozen features. No training.

Zhou et al., "Revisiting class-incremental learning with pre-trained models", IJCV 2024, Sec. 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.ledger import Entry, Ledger
from cl_framework.model import Model
from cl_framework.statistics import class_means
from cl_framework.strategy import Plan, Strategy
from cl_framework.stream import Experience, Inputs


@final
class SimpleCIL(Strategy):
    """Compares with the mean of frozen features, without training; choose it first, as a baseline to beat.

    Nearest class mean by cosine on the pristine backbone. Each class owns one prototype.
    """

    isolates, competes = "class", None

    def __init__(self) -> None:
        """Start with no prototypes."""
        super().__init__()
        self.prototypes = Ledger()

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Write down the mean of each class that has none; ask for no training."""
        if missing := [c for c in event.classes if Entry(c) not in self.prototypes]:
            z, y = model.embed(event.reference.of(missing), using=())
            for c, mean in class_means(z, y, missing).items():
                self.prototypes[Entry(c)] = mean
        return ()

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return the cosine to every mean."""
        means = self.prototypes.stacked(model.classes)
        return normalize(model.features(x, using=()), dim=-1) @ normalize(means, dim=-1).T

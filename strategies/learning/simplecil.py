"""SimpleCIL: a class is the mean of its frozen features. No training.

Zhou et al., "Revisiting class-incremental learning with pre-trained models", IJCV 2024, Sec. 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.memory import Means
from cl_framework.methods import Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class SimpleCIL(Strategy):
    """Compares with the mean of frozen features, without training; choose it first, as a baseline to beat.

    Nearest class mean by cosine on the pristine backbone. A class that comes again is the mean of all its samples.
    """

    isolates, competes, repeats = "class", None, True

    def __init__(self) -> None:
        """Start without prototypes."""
        super().__init__()
        self.prototypes = Means(pristine=True)

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Store the mean of each class that has none; no training."""
        if missing := self.prototypes.missing(event.name, event.classes):
            self.prototypes.measure(event.name, *model.embed(event.reference.of(missing), using=()), missing)
        return ()

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return the cosine to every mean."""
        means = self.prototypes.of(model.classes)
        return normalize(model.features(x, using=()), dim=-1) @ normalize(means, dim=-1).T

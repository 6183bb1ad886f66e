"""APER: one adapter tuned on the first experience, then nearest class mean on pristine and adapted features together.

Zhou et al., "Revisiting class-incremental learning with pre-trained models: Generalizability and adaptivity are all you
need", IJCV 2024, Sec. 4.2 (called ADAM in its first version).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.memory import Erasure, Means, erase
from cl_framework.methods import Plan, Strategy, tune, tuned
from cl_framework.models import Model, Using
from cl_framework.streams import Experience, Inputs


@final
class APER(Strategy):
    """Tunes one adapter on the first experience, then class means; choose it as a fast, strong baseline.

    Cosine to class means of ``[pristine ; adapted]``, normalised as one vector: the half with the larger norm weighs
    more.

    What is tuned is whatever the config's adapter is: `Bottleneck` of width 64 gives the published "APER w/ Adapter",
    and scaling, prompts or the whole backbone its other rows. SGD at rate 0.01, weight decay 5e-4, batches of 48, 20
    epochs on CIFAR-100; 0.05, 5e-3 and 24 on ImageNet-R.

    A class is forgotten exactly by deleting its means. A request that touches the first experience trains the adapter
    again, and computes the adapted means of all classes again.
    """

    isolates, trains_first_only, competes, repeats = "class", True, "new", True

    def __init__(self) -> None:
        """Start without prototypes."""
        super().__init__()
        self.prototypes, self.adapted = Means(pristine=True), Means()

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train the adapter if there is none yet, then store the missing means."""
        if tuned(model) is None:
            erase(Erasure(everything=True), self.adapted)  # measured with an adapter that was deleted
            yield tune(model, event)
        for means, using in self._spaces(model):
            if missing := means.missing(event.name, event.classes):
                means.measure(event.name, *model.embed(event.reference.of(missing), using), missing)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return the cosine of both features together to the means of both."""
        spaces = self._spaces(model)
        means, z = ([m.of(model.classes) for m, _ in spaces], [model.features(x, using) for _, using in spaces])
        return normalize(torch.cat(z, 1), dim=-1) @ normalize(torch.cat(means, 1), dim=-1).T

    def _spaces(self, model: Model) -> list[tuple[Means, Using]]:
        return [(self.prototypes, ()), (self.adapted, tuned(model) or ())]

"""InfLoRA: low-rank updates in the input directions that earlier experiences do not use and new inputs use most.

Liang and Li, "InfLoRA: Interference-free low-rank adaptation for continual learning", CVPR 2024, after Saha et al.,
"Gradient projection memory for continual learning", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from cl_framework.adapters import LowRank
from cl_framework.functional import Remembered, leading, remember
from cl_framework.memory import Key, TensorStore
from cl_framework.methods import Compete, Plan, Strategy, adapter_chain
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class InfLoRA(Strategy):
    """Trains low-rank updates in directions that old inputs leave free; choose it to keep no samples.

    ``A`` is designed and fixed, ``B`` is trained; DualGPM stores the directions of the inputs after each experience.

    Published with LoRA of rank 10 on keys and values, Adam at rate 5e-4 without weight decay, batches of 128, 20
    epochs on CIFAR-100 and 50 on ImageNet-R: 92.07 average and 86.95 final accuracy on CIFAR-100 in ten experiences
    (seed 1993, released code). The cross-entropy is over the current classes only.

    Args:
        threshold: Share of the inputs' energy to remember after the first experience (0.95 on CIFAR-100, 0.98 on
            ImageNet-R).
        threshold_end: Share that it rises to, in equal steps.
        horizon: Experiences until then. The paper puts the length of its streams here, which a stream does not reveal.
        compete: Whether a new class is told from the classes of its own experience (``current``, as published) or from
            ``all``, which experiences of a single class need.
    """

    rewrites = LowRank
    repeats = True

    def __init__(
        self, threshold: float = 0.95, threshold_end: float = 1.0, horizon: int = 10, compete: Compete = "current"
    ) -> None:
        """Start without stored directions."""
        super().__init__()
        self.threshold, self.threshold_end, self.horizon = threshold, threshold_end, horizon
        self.inputs = TensorStore()
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Compute ``A`` from the inputs before training, train ``B``, and store their directions after it."""
        before, mine = adapter_chain.extend(model, event)
        groups, moments = adapter_chain.same_input(model), adapter_chain.input_moments(model, event.data)
        for first, sites in groups.items():
            for rewrite in (mine[site] for site in sites):
                rows = leading(moments[first], len(rewrite.a), self.past(first)) / 3**0.5
                with torch.no_grad():
                    rewrite.a.copy_(rows)
        yield adapter_chain.chain_plan(model, event, [r.b for r in mine.values()], self.compete)
        share = min(len(before) / self.horizon, 1.0)
        threshold = self.threshold + share * (self.threshold_end - self.threshold)
        for first, moment in adapter_chain.input_moments(model, event.data).items():
            self._keep(first, remember(self.past(first), moment, threshold))

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with all updates and the head."""
        return model.scores(x, model.adapters.learned)

    def past(self, site: str) -> Remembered | None:
        """Return the directions remembered of a site's inputs; None before the first experience."""
        keys = {free: Key(name=f"{site} {'free' if free else 'needed'}") for free in (False, True)}
        return next((Remembered(self.inputs[e], free) for free, e in keys.items() if e in self.inputs), None)

    def _keep(self, site: str, now: Remembered) -> None:
        for entry in [e for e in self.inputs if e.name.split()[0] == site]:
            del self.inputs[entry]
        self.inputs[Key(name=f"{site} {'free' if now.free else 'needed'}")] = now.base

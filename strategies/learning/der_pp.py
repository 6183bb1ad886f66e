"""DER++: experience replay with the logits of stored samples as well as their labels.

Buzzega et al., "Dark experience for general continual learning: a strong, simple baseline", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import Answers, Paired, Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Batch, Experience, Inputs


@final
class DERPlusPlus(Strategy):
    """Replays stored samples with their old logits and labels; choose it where samples may be kept.

    Every step reads new samples and two batches of exemplars: one to match old logits, one to match labels (Eq. 6).

    ``CE(new) + alpha MSE(old scores, scores then) + beta CE(old)``. The paper fills its memory from the stream by
    reservoir sampling, with the answers of that moment. Here samples are remembered when their experience ends, as many
    of each class, with the answers of the model that has learned it; classes learned later have no old score.

    Args:
        per_class: How many samples to remember of each class; None remembers all.
        alpha: Weight of old logits (0.1 to 0.5 in the paper, by data set and size of memory).
        beta: Weight of old labels (0.5 or 1 in the paper).
    """

    repeats = True

    def __init__(self, per_class: int | None = 20, alpha: float = 0.1, beta: float = 0.5) -> None:
        """Start with no samples."""
        super().__init__()
        self.alpha, self.beta, self.answers = alpha, beta, Answers(per_class)

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train on new samples and exemplars, then store some of the new samples with the model's logits."""
        params = model.ready("shared", event.classes)
        if self.answers.memory and (self.alpha or self.beta):
            yield self._rehearsal(model, event, params)
        else:
            yield Plan(event.data, params)
        self.answers.keep(model, event, "shared")

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and head."""
        return model.scores(x, "shared")

    def _rehearsal(self, model: Model, event: Experience, params: list[torch.nn.Parameter]) -> Plan:
        pairs = Paired(event.data, self.answers.memory.all(), pace=2.0)
        ids, answers = self.answers.table(model.head.classes)

        def loss(model: Model, batch: Batch) -> Tensor:
            scores: Tensor = model(batch.x)
            y, old = model.head.index(batch.y), pairs.gone(batch)
            dark, labelled = old.nonzero()[:, 0].chunk(2)
            match = batch.ids[dark, None] == ids
            then = answers[match.int().argmax(1)]
            known = ~then.isnan() & match.any(1, keepdim=True)
            error = (scores[dark] - then)[known].square().sum() / known.sum().clamp_min(1)
            labels: Tensor = cross_entropy(scores[labelled], y[labelled])
            return cross_entropy(scores[~old], y[~old]) + self.alpha * error + self.beta * labels

        return Plan(pairs, params, loss)

"""L2P: one pool of prompts for all experiences; each sample selects the prompts whose keys match its query.

Wang et al., "Learning to prompt for continual learning", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.adapters import PromptPooling, pool_of
from cl_framework.methods import Compete, Plan, Strategy, competing_classes, holding
from cl_framework.models import Model
from cl_framework.streams import Batch, Experience, Inputs


@final
class L2P(Strategy):
    """Learns a pool of prompts that each sample chooses from; choose it as the classic prompt baseline.

    Train the pool and a linear head on each experience, scoring its own classes alone (Sec. 4.3).

    ``cross-entropy - pull * (cosines of a sample's query with the keys of its prompts, summed; mean over the batch)``.
    Published figures (85.94 average and 79.93 last on CIFAR-100 B0-Inc5 in EASE's table) come from ``choice: batch`` of
    the `PromptPool`, which leaks the task; see there. They were trained with Adam at a constant rate of 0.001875, as
    `configs/strategy/l2p.yaml` says, without weight decay: Adam would take full steps of it on rows without gradient.

    Args:
        pull: Weight of the term that pulls selected keys towards their queries.
        compete: Whether a new class is told from the classes of its own experience (``current``, as published) or from
            the head's rows of ``all`` known ones too, which stay as they are: experiences of a single class need that.
    """

    rewrites = PromptPooling

    def __init__(self, pull: float = 0.1, compete: Compete = "current") -> None:
        """Store the weight; prompts, keys and head belong to the model."""
        super().__init__()
        self.pull = pull
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train the shared pool and head further."""
        params = model.ready("shared", event.classes)
        who = competing_classes(model, event, self.compete)
        own = model.head.index(torch.tensor(who.among, device=model.device))

        def loss(model: Model, batch: Batch) -> Tensor:
            query = model.query(batch.x)
            scores = model.head(model.features(batch.x, "shared", query))
            target = (model.head.index(batch.y)[:, None] == own).int().argmax(1)
            agreement = pool_of(model.adapters, "shared").agreement(query).mean()
            return cross_entropy(scores[:, own], target) - self.pull * agreement

        yield Plan(event.data, params, loss, after_step=holding(model, event.classes), against=who.known)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score prompted features with the shared head: two passes, one of them for the query."""
        return model.scores(x, "shared")

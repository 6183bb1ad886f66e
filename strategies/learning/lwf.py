"""LwF: learn new classes while distillation keeps the scores of old ones. No samples are kept.

Li et al. (Li and Hoiem), "Learning without forgetting", IEEE TPAMI 40, 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import Plan, Strategy, Teacher, classify_among, divergence
from cl_framework.models import Model
from cl_framework.streams import Batch, Experience, Inputs


@final
class LwF(Strategy):
    """Holds old scores by distillation on new samples; choose it where no old sample may be kept.

    ``CE(new) + weight KL(then || now)`` over old classes, on new samples (Fig. 3), without the paper's warm-up.

    Args:
        weight: Weight of the distillation (1 in the paper; 3 in PyCIL, where tables of class-incremental learning
            mostly come from).
        temperature: Temperature of both softmaxes in the distillation (2).
        over: Classes that the cross-entropy tells apart: the ``new`` ones, as in the paper, where every task has a head
            of its own, or all ``seen`` so far, as in finetuning.
    """

    repeats, widens = True, "over seen"

    def __init__(self, weight: float = 1.0, temperature: float = 2.0, over: Literal["new", "seen"] = "new") -> None:
        """Store the settings."""
        super().__init__()
        self.weight, self.temperature, self.over = weight, temperature, over
        self.competes = "known" if over == "seen" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train with distillation from the model before this experience."""
        old = [c for c in model.head.classes if c not in event.classes]
        params = model.ready("shared", event.classes)
        teacher = Teacher(model, self, params) if old and self.weight else None
        columns = model.head.index(torch.tensor(old, dtype=torch.int64, device=model.device))

        def loss(model: Model, batch: Batch) -> Tensor:
            then = None if teacher is None else teacher(batch.x)[:, columns]
            scores: Tensor = model(batch.x)
            if self.over == "new":
                entropy = classify_among(model, scores, batch.y, event.classes)
            else:
                entropy = cross_entropy(scores, model.head.index(batch.y))
            held = 0.0 if then is None else divergence(then / self.temperature, scores[:, columns] / self.temperature)
            return entropy + self.weight * held

        yield Plan(event.data, params, loss)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and head."""
        return model.scores(x, "shared")

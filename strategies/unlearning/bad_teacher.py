"""Bad teacher: distil an untrained model on the forget set, and the old model on the retain set.

Chundawat et al., "Can bad teaching induce forgetting?", AAAI 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from cl_framework.methods import (
    Plan,
    Strategy,
    Teacher,
    Unlearner,
    adamw,
    batch_mask,
    divergence,
    editable,
    remove_forgotten,
    retained,
)
from cl_framework.models import Head, Model
from cl_framework.streams import Batch, ForgetRequest, Joined


@final
class BadTeacher(Unlearner):
    """Imitates an untrained model on forget samples; choose it when all samples are there. Approximate.

    ``KL(bad || new)`` on D_f, ``KL(old || new)`` on D_r. Reads the forget set and the retain set.

    The bad teacher is the frozen backbone without what was trained, under a head of random rows.

    Args:
        epochs: Passes over both sets (1 in the paper).
        share: Share of the retain set that is read (0.3 in the paper).
        temperature: Softens teachers and student (1 in the paper).
        lr: Learning rate of AdamW (1e-4 in the paper, all weights); None trains as the model section says.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget", "retain"})

    def __init__(
        self,
        epochs: int = 1,
        share: float = 0.3,
        temperature: float = 1.0,
        lr: float | None = None,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.epochs, self.share, self.temperature, self.lr = epochs, share, temperature, lr
        self.keep_rows = keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Distil both teachers, then remove the classes."""
        old = Teacher(model, strategy, editable(model))
        bad = Head(model.head.width, model.head.kind, model.classes).to(model.device)

        def loss(model: Model, batch: Batch) -> Tensor:
            with torch.no_grad():  # earlier edits on the stack apply to it, as to every pass
                ignorant = bad(model.features(batch.x, ()))
            taught = torch.where(batch_mask(batch, event.data.ids)[:, None], ignorant, old(batch.x))
            return divergence(taught, strategy.predict(model, batch.x), self.temperature)

        both = Joined([event.data, retained(event, self.share)])
        yield Plan(both, old.params, loss, self.epochs, adamw(self.lr))
        remove_forgotten(model, strategy, event, self.keep_rows)

"""SLCA: slow training of the backbone, and a classifier aligned on Gaussian features.

Zhang et al., "SLCA: Slow learner with classifier alignment for continual learning on a pre-trained model", ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from cl_framework.memory import Key, TensorStore
from cl_framework.methods import (
    Compete,
    Gaussians,
    Plan,
    Strategy,
    align,
    by_age,
    classify_among,
    competing_classes,
    normalised,
)
from cl_framework.models import Model
from cl_framework.streams import Batch, Experience, Inputs


@final
class SLCA(Strategy):
    """Fine-tunes the whole backbone slowly and aligns the head; choose it when adapters learn too little.

    Sequential fine-tuning at two rates; after each experience the head is trained on drawn features of all classes.

    Published with the adapter `Full`, which fine-tunes the whole backbone as an update beside frozen weights; weight
    decay then pulls towards the pre-trained weights instead of zero. With other adapters it is SLCA's recipe on fewer
    parameters, and needs a larger ``slow``. The paper's tables: SGD at rate 0.01, weight decay 5e-4, batches of 64, 20
    epochs on CIFAR-100 and 50 elsewhere, the rate a tenth at the end; here it falls as the model section says.

    Each experience starts from the head before alignment, so that errors of drawn features do not add up.

    Args:
        slow: Share of the learning rate that adapters get.
        align_epochs: Epochs of drawn features (5 in the original code, 3 in PILOT's tables); 0 leaves alignment out.
        align_lr: Its learning rate.
        draws: Features of each class in an epoch.
        temperature: Of the normalised logits.
        shrink: Means are multiplied with ``shrink + (1 - shrink) (t + 1) / (b + 1)`` before drawing, those of
            experience t of b + 1, so that old classes lie nearer to the origin (0.9 as released; 1 leaves them).
        compete: Whether a new class is told from the classes of its own experience (``current``) or from the head's
            rows of ``all`` known ones too, which stay as they are: experiences of a single class need that.
    """

    adopts = False

    def __init__(
        self,
        slow: float = 0.01,
        align_epochs: int = 5,
        align_lr: float = 0.01,
        draws: int = 256,
        temperature: float = 0.1,
        shrink: float = 0.9,
        compete: Compete = "current",
    ) -> None:
        """Start without classes."""
        super().__init__()
        self.slow, self.temperature, self.shrink = slow, temperature, shrink
        self.align_epochs, self.align_lr, self.draws = align_epochs, align_lr, draws
        self.gaussians, self.rows = Gaussians(), TensorStore()
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train on the new classes only, restore the rows of old ones, then align all rows."""
        model.ready("shared", event.classes)
        adapter, head = model.adapters.params("shared"), list(model.head.parameters())
        groups: list[dict[str, Any]] = [{"params": adapter, "lr_factor": self.slow}, {"params": head}]

        who = competing_classes(model, event, self.compete)

        def loss(model: Model, batch: Batch) -> Tensor:
            return classify_among(model, model.scores(batch.x, "shared"), batch.y, who.among)

        yield Plan(event.data, groups, loss, after_step=who.hold, against=who.known)
        self._restore(model, event.classes)
        self.gaussians.measure(*model.embed(event.reference, "shared"), event.classes, "shared")
        if self.align_epochs and len(model.experiences) > 1:
            names = model.experiences
            owner = torch.tensor([names.index(model.known[c]) for c in model.head.classes], device=model.device)
            yield align(
                model, self.gaussians, epochs=self.align_epochs, lr=self.align_lr, draws=self.draws,
                params=[p for p in head if p.ndim], scores=lambda z: normalised(model.head(z), owner, self.temperature),
                shrink=by_age(model, self.shrink),
            )  # fmt: skip

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and the aligned head."""
        return model.scores(x, "shared")

    @torch.no_grad()
    def _restore(self, model: Model, new: Iterable[int]) -> None:
        """Store the rows just trained, and restore those of older classes to their values before any alignment."""
        for i, c in enumerate(model.head.classes):
            for k, p in enumerate(p for p in model.head.parameters() if p.ndim):
                entry = Key(c, "shared", f"row{k}")
                if c in new:
                    self.rows[entry] = p[i]
                p[i] = self.rows[entry]

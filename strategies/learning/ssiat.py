"""SSIAT: one adapter trained on every experience, old class means shifted with it, and a classifier aligned on them.

Tan et al., "Semantically-shifted incremental adapter-tuning is a continual ViTransformer", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from cl_framework.functional import semantic_shift
from cl_framework.methods import Compete, Gaussians, Plan, Strategy, align, by_age, classify_among, competing_classes
from cl_framework.models import Model
from cl_framework.streams import Batch, Experience, Inputs, Subset


@final
class SSIAT(Strategy):
    """Tunes one shared adapter throughout and shifts old means; choose it to keep one small adapter.

    Train the shared adapter on new classes by cosines, shift old means, then align on drawn features of all classes.

    Scores are cosines to the rows of the shared head, without its bias and scale. Published with `Bottleneck` of
    width 64, SGD at rate 0.01, weight decay 5e-4, batches of 48, and 20 epochs.

    Args:
        scale: Factor on cosines in both losses (20 in the paper).
        margin: Taken off the cosine of the right class in training (0; the released tables: 0.3 on ImageNet-A).
        sigma: How near a sample must lie to a mean to move it (4 as released; where distances are much larger than
            that, all samples weigh the same). In units of features, so other backbones need another value.
        pairing: How samples are read before and after training, to see how they moved. ``same_pictures`` reads each
            picture twice under the test transform, as the paper means it. ``shuffled_as_released`` reads random crops
            in two random orders, so that a picture is paired with another one; the published tables come from it.
        later_epochs: Epochs of every experience but the first (10 in the paper, half of the first's); None as many.
        align_epochs: Epochs of drawn features; 0 leaves alignment out.
        align_lr: Its learning rate.
        draws: Features of each class in an epoch.
        shrink: Means are multiplied with ``shrink + (1 - shrink) (t + 1) / (b + 1)`` before drawing, those of
            experience t of b + 1, so that old classes lie nearer to the origin (0.9 as released; 1 leaves them).
        compete: Whether a new class is told from the classes of its own experience (``current``) or from the head's
            rows of ``all`` known ones too, which stay as they are: experiences of a single class need that.
    """

    adopts = False

    def __init__(
        self,
        scale: float = 20.0,
        margin: float = 0.0,
        sigma: float = 4.0,
        pairing: Literal["same_pictures", "shuffled_as_released"] = "same_pictures",
        later_epochs: int | None = None,
        align_epochs: int = 5,
        align_lr: float = 0.01,
        draws: int = 256,
        shrink: float = 0.9,
        compete: Compete = "current",
    ) -> None:
        """Start without classes."""
        super().__init__()
        self.scale, self.margin, self.sigma, self.pairing = scale, margin, sigma, pairing
        self.later_epochs, self.shrink = later_epochs, shrink
        self.align_epochs, self.align_lr, self.draws = align_epochs, align_lr, draws
        self.gaussians = Gaussians()
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train, measure how far samples moved, shift the means of old classes, compute new ones, align."""
        model.ready("shared", event.classes)
        self._even(model, event.classes)
        later = len(model.experiences) > 1
        old = [c for c in model.classes if c in self.gaussians and c not in event.classes]

        who = competing_classes(model, event, self.compete)

        def loss(model: Model, batch: Batch) -> Tensor:
            cosines = model.head.cosines(model.features(batch.x, "shared"))
            right = one_hot(model.head.index(batch.y), cosines.shape[1])
            return classify_among(model, self.scale * (cosines - self.margin * right), batch.y, who.among)

        before = self._seen(model, event) if old else None
        params = [*model.adapters.params("shared"), model.head.weight]
        epochs = self.later_epochs if later else None
        yield Plan(event.data, params, loss, epochs, after_step=who.hold, against=who.known)
        if before is not None:
            shift = semantic_shift(self.gaussians.means(old), before, self._seen(model, event), self.sigma)
            self.gaussians.move(old, shift)
        self.gaussians.measure(*model.embed(event.reference, "shared"), event.classes, "shared")
        if self.align_epochs and later:
            yield align(
                model, self.gaussians, epochs=self.align_epochs, lr=self.align_lr, draws=self.draws,
                params=[model.head.weight], scores=lambda z: self.scale * model.head.cosines(z), eps=1e-3,
                shrink=by_age(model, self.shrink),
            )  # fmt: skip

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter by cosines, scaled as in training."""
        return self.scale * model.head.cosines(model.features(x, "shared"))

    def _seen(self, model: Model, event: Experience) -> Tensor:
        """Return the features ``(n, width)`` of the new samples as they are now."""
        if self.pairing == "same_pictures":
            return model.embed(event.reference, "shared")[0]
        return model.embed(Subset(event.data, torch.randperm(len(event.data))), "shared")[0]

    @torch.no_grad()
    def _even(self, model: Model, new: Iterable[int]) -> None:
        """Give new rows the length that standard deviation 0.02 makes at width 768: it sets how fast they turn."""
        rows = [i for i, c in enumerate(model.head.classes) if c in new and c not in self.gaussians]
        model.head.weight[rows] = 0.02 * 768**0.5 * normalize(model.head.weight[rows], dim=1)

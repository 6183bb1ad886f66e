"""SalUn: random labels for the forget set, trained into its most salient weights.

Fan et al., "SalUn: empowering machine unlearning via gradient-based weight saliency", ICLR 2024, Sec. 4, Eq. 3-4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch

from cl_framework.methods import (
    Plan,
    Strategy,
    Unlearner,
    adamw,
    editable,
    learned,
    parameter_importance,
    relabelling,
    remove_forgotten,
    retained,
)
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest, Joined


@final
class SalUn(Unlearner):
    """Trains wrong labels into the most salient weights only; choose it to change few. Approximate.

    `RandomLabels` on the most salient weights alone. Reads the forget set and the retain set.

    Salient is the ``top`` share of ``|sum over D_f of grad CE|``, ranked over all weights in one pass of evaluation.
    The rest is restored after every step: weight decay and momentum change weights without gradient too.

    Args:
        top: Share of the weights that may change (0.5 in the paper).
        epochs: Passes over both sets.
        share: Share of the retain set that is read.
        lr: Learning rate of AdamW; None trains as the model section says.
        batch: Samples per pass of the ranking, which does not depend on it.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget", "retain"})

    def __init__(
        self,
        top: float = 0.5,
        epochs: int = 10,
        share: float = 1.0,
        lr: float | None = None,
        batch: int = 64,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.top, self.epochs, self.share, self.lr = top, epochs, share, lr
        self.batch, self.keep_rows = batch, keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Rank, train what is salient, then remove the classes."""
        params, entropy = editable(model), learned(strategy)
        with parameter_importance.open_to_gradients(model, params):
            read = parameter_importance.batches(event.reference, self.batch, model.device)
            slope = parameter_importance.summed_gradient(lambda b: len(b.y) * entropy(model, b), params, read)
        masks = parameter_importance.top_share([g.abs() for g in slope], self.top)
        before = [p.detach().clone() for p in params]

        def mask_gradients(_: Model) -> None:
            for p, mask in zip(params, masks, strict=True):
                p.grad = None if p.grad is None else p.grad * mask

        @torch.no_grad()
        def put_back(_: Model) -> None:
            for p, mask, old in zip(params, masks, before, strict=True):
                p.copy_(torch.where(mask, p, old))

        both = Joined([event.data, retained(event, self.share)])
        loss = relabelling(strategy, event.data.ids)
        yield Plan(both, params, loss, self.epochs, adamw(self.lr), mask_gradients, put_back)
        remove_forgotten(model, strategy, event, self.keep_rows)

"""Selective synaptic dampening: shrink weights that matter more to the forget set than to all samples.

Foster et al., "Fast machine unlearning without retraining through selective synaptic dampening", AAAI 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch

from cl_framework.methods import (
    Plan,
    Strategy,
    Unlearner,
    editable,
    learned,
    parameter_importance,
    reference_of,
    remove_forgotten,
    retained,
)
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest, Joined, Subset


@final
class SSD(Unlearner):
    """Shrinks weights that forget samples need most; choose it to edit without training. Approximate.

    Where ``I_f > a I_D``: ``theta min(1, strength I_D / I_f)``. Reads the forget set and the retain set.

    I is the mean over batches of the squared gradient, so it depends on their size; nothing is trained.

    Args:
        a: How much more a weight must matter to be dampened (10 in the paper; 5 for its ViT, 50 for faces).
        strength: Factor on the remaining weight (1 in the paper; 0.1 for faces).
        share: Share of the retain set that is read.
        batch: Samples per squared gradient.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget", "retain"})

    def __init__(
        self,
        a: float = 10.0,
        strength: float = 1.0,
        share: float = 1.0,
        batch: int = 64,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.a, self.strength, self.share, self.batch, self.keep_rows = a, strength, share, batch, keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Estimate both, dampen, then remove the classes."""
        params, entropy = editable(model), learned(strategy)
        everything = Joined([event.reference, reference_of(event, retained(event, self.share))])
        mixed = Subset(everything, torch.randperm(len(everything)))
        with parameter_importance.open_to_gradients(model, params):
            gone, all_ = (
                parameter_importance.mean_square(
                    lambda b: entropy(model, b), params, parameter_importance.batches(samples, self.batch, model.device)
                )
                for samples in (event.reference, mixed)
            )
        with torch.no_grad():
            for p, f, d in zip(params, gone, all_, strict=True):
                p.copy_(torch.where(f > self.a * d, p * (self.strength * d / f).clamp(max=1.0), p))
        remove_forgotten(model, strategy, event, self.keep_rows)
        yield from ()

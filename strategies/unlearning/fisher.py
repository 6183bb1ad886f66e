"""Fisher forgetting: noise in weights that the retain set does not depend on.

Golatkar et al., "Eternal sunshine of the spotless net", CVPR 2020, Sec. 5.
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
    parameter_importance,
    reference_of,
    remove_forgotten,
    retained,
)
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class FisherForgetting(Unlearner):
    """Adds noise to weights that retained samples need least; needs only these. Approximate.

    ``theta + N(0, a / F)`` with the Fisher information F of the retain set. Reads the retain set only.

    F sums over every label, so each sample costs as many backward passes as there are classes.

    Args:
        a: Strength of the noise (1e-6 in the paper).
        most: Bound on ``1 / F`` (1e3 in the released code).
        share: Share of the retain set that is read.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"retain"})

    def __init__(self, a: float = 1e-6, most: float = 1e3, share: float = 0.1, keep_rows: bool = False) -> None:
        """Keep the settings."""
        super().__init__()
        self.a, self.most, self.share, self.keep_rows = a, most, share, keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Estimate F, add noise, then remove the classes; nothing is trained."""
        params, stay = editable(model), reference_of(event, retained(event, self.share))
        with parameter_importance.open_to_gradients(model, params):
            read = parameter_importance.batches(stay, 64, model.device)
            known = parameter_importance.fisher(lambda x: strategy.predict(model, x), params, read)
        with torch.no_grad():
            for p, f in zip(params, known, strict=True):
                p.add_((self.a * (1 / f).clamp(max=self.most)).sqrt() * torch.randn_like(p))
        remove_forgotten(model, strategy, event, self.keep_rows)
        yield from ()

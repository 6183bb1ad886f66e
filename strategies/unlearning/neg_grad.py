"""NegGrad+: descend on the retain set and ascend on the forget set at once.

Kurmanji et al., "Towards unbounded machine unlearning", NeurIPS 2023, Sec. 5 (baselines).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import Paired, Plan, Strategy, Unlearner, adamw, columns, editable, remove_forgotten, retained
from cl_framework.models import Model
from cl_framework.streams import Batch, ForgetRequest


@final
class NegGradPlus(Unlearner):
    """Lowers the loss on retain and raises it on forget samples; choose it as a baseline. Approximate.

    ``balance CE(retain) - (1 - balance) CE(forget)`` on the shared adapters. Reads the forget set and the retain set.

    The ascent has no bound; ``balance`` and few epochs keep it from destroying the model.

    Args:
        balance: Weight of the retain set (0.95 in the paper's experiments).
        epochs: Passes over the retain set (10 there).
        share: Share of the retain set that is read.
        lr: Learning rate of AdamW; None trains as the model section says.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget", "retain"})

    def __init__(
        self,
        balance: float = 0.95,
        epochs: int = 10,
        share: float = 0.1,
        lr: float | None = None,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.balance, self.epochs, self.share, self.lr, self.keep_rows = balance, epochs, share, lr, keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Train on pairs, then remove the classes."""
        pairs = Paired(retained(event, self.share), event.data)

        def loss(model: Model, batch: Batch) -> Tensor:
            scores, y, gone = strategy.predict(model, batch.x), columns(model, batch.y), pairs.gone(batch)
            stay, go = cross_entropy(scores[~gone], y[~gone]), cross_entropy(scores[gone], y[gone])
            return self.balance * stay - (1 - self.balance) * go

        yield Plan(pairs, editable(model), loss, self.epochs, adamw(self.lr))
        remove_forgotten(model, strategy, event, self.keep_rows)

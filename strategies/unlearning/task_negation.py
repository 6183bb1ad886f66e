"""Task negation: fine-tune on the forget set and subtract the change.

Ilharco et al., "Editing models with task arithmetic", ICLR 2023, Sec. 3; for LoRA, Zhang et al., "Composing
parameter-efficient modules with arithmetic operations", NeurIPS 2023, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from cl_framework.methods import Plan, Scalable, Strategy, Unlearner, adamw, learned, remove_forgotten, suits
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class TaskNegation(Unlearner):
    """Fine-tunes on forget samples and subtracts the change; needs only these. Approximate.

    ``W - scale dW``, where dW is a new delta fine-tuned on D_f. Reads the forget set only.

    The change is negated, which for LoRA means one factor: negating both would leave ``B A`` as it is. Adapters that do
    more than add to a linear map have no such negative.

    Args:
        scale: Length of the step back; the paper picks it by accuracy on the retain set.
        epochs: Passes over the forget set.
        lr: Learning rate of AdamW; None trains as the model section says.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    acts = "stack"
    needs = frozenset({"forget"})

    def __init__(self, scale: float = 1.0, epochs: int = 10, lr: float | None = None, keep_rows: bool = False) -> None:
        """Keep the settings."""
        super().__init__()
        self.scale, self.epochs, self.lr, self.keep_rows = scale, epochs, lr, keep_rows

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse adapters that cannot be negated."""
        adapter = model.adapters.adapter
        if suits(adapter, model.backbone, Scalable):
            return None
        kind = type(adapter).__name__
        return f"{kind} does more than add to a linear map, so its change has no negative; LoRA's has"

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Train a new update on the forget set, negate it, then remove the classes."""
        delta = model.adapters.push(event.name)
        yield Plan(event.data, delta, learned(strategy), self.epochs, adamw(self.lr))
        for rewrite in model.adapters.rewrites[event.name].children():
            assert isinstance(rewrite, Scalable)
            rewrite.rescale(-self.scale)
        remove_forgotten(model, strategy, event, self.keep_rows)

"""Random labels: train on wrong labels for the forget set and right ones for the retain set.

Graves et al., "Amnesiac machine learning", AAAI 2021, Sec. 4 (unlearning); the baseline "RL" of later papers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from cl_framework.methods import Plan, Strategy, Unlearner, adamw, editable, relabelling, remove_forgotten, retained
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest, Joined


@final
class RandomLabels(Unlearner):
    """Trains wrong labels on forget and right ones on retain samples; choose it to compare. Approximate.

    Cross-entropy with a wrong label for the forget set. Reads the forget set and the retain set.

    Labels are drawn in each epoch from all live classes but the true one. Some released code draws them from as
    many as are to be forgotten, which pushes everything onto a few.

    Args:
        epochs: Passes over both sets.
        share: Share of the retain set that is read.
        lr: Learning rate of AdamW; None trains as the model section says.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget", "retain"})

    def __init__(self, epochs: int = 10, share: float = 1.0, lr: float | None = None, keep_rows: bool = False) -> None:
        """Keep the settings."""
        super().__init__()
        self.epochs, self.share, self.lr, self.keep_rows = epochs, share, lr, keep_rows

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Train on both, then remove the classes."""
        both = Joined([event.data, retained(event, self.share)])
        yield Plan(both, editable(model), relabelling(strategy, event.data.ids), self.epochs, adamw(self.lr))
        remove_forgotten(model, strategy, event, self.keep_rows)

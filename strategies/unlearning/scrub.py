"""SCRUB: move away from the old model on the forget set and stay near it on the retain set, in turns.

Kurmanji et al., "Towards unbounded machine unlearning", NeurIPS 2023, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.methods import (
    Plan,
    Strategy,
    Teacher,
    Unlearner,
    adamw,
    divergence,
    editable,
    error,
    hold_out,
    learned,
    remove_forgotten,
    retained,
)
from cl_framework.models import Model
from cl_framework.streams import Batch, ForgetRequest


@final
class SCRUB(Unlearner):
    """Moves away from the old model on forget samples and stays near it on retain samples. Approximate.

    Epochs of ``max KL(old || new)`` on D_f, ``min gamma CE + alpha KL`` on D_r. Reads the forget set and the retain
    set.

    ``rewind`` (SCRUB+R, for single samples) returns to the epoch whose error on the forget set is closest to the error
    on as many samples of each class held out from the descent, so that errors on the forget set do not stand out. Those
    were learned once, as there are no others at request time: their error is a low estimate.

    Args:
        gamma: Weight of the cross-entropy on the retain set (0.99 in the large-scale experiments).
        alpha: Weight of the divergence on the retain set (0.001 there).
        temperature: Softens both models in the divergence (4 there).
        epochs: Passes over the retain set.
        ascents: How many of these begin with an epoch of ascent (msteps).
        share: Share of the retain set that is read.
        lr: Learning rate of AdamW; None trains as the model section says.
        rewind: Return to the epoch of the closest error.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"forget", "retain"})

    def __init__(
        self,
        gamma: float = 0.99,
        alpha: float = 0.001,
        temperature: float = 4.0,
        epochs: int = 3,
        ascents: int = 2,
        share: float = 1.0,
        lr: float | None = None,
        rewind: bool = False,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.gamma, self.alpha, self.temperature, self.epochs, self.ascents = gamma, alpha, temperature, epochs, ascents
        self.share, self.lr, self.rewind, self.keep_rows = share, lr, rewind, keep_rows

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse rewinding where no sample of the same class stays."""
        if self.rewind and not event.single:
            return "rewinding compares with samples of the same classes that stay, and these go altogether"
        return None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Ascend and descend in turns, rewind if asked, then remove the classes."""
        params, entropy, optimizer = editable(model), learned(strategy), adamw(self.lr)
        teacher, stay = Teacher(model, strategy, params), retained(event, self.share)
        held, stay = hold_out(event, stay) if self.rewind else (stay, stay)
        ends: list[tuple[float, list[Tensor]]] = []

        def away(model: Model, batch: Batch) -> Tensor:
            return -divergence(teacher(batch.x), strategy.predict(model, batch.x), self.temperature)

        def close(model: Model, batch: Batch) -> Tensor:
            apart = divergence(teacher(batch.x), strategy.predict(model, batch.x), self.temperature)
            return self.gamma * entropy(model, batch) + self.alpha * apart

        for epoch in range(self.epochs):
            if epoch < self.ascents:
                yield Plan(event.data, params, away, 1, optimizer)
            yield Plan(stay, params, close, 1, optimizer)
            if self.rewind:
                ends.append((error(model, strategy, event.reference), [p.detach().clone() for p in params]))
        if self.rewind:
            wanted = error(model, strategy, held)
            teacher.put(min(ends, key=lambda end: abs(end[0] - wanted))[1])
        remove_forgotten(model, strategy, event, self.keep_rows)

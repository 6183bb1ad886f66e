"""UNSIR: noise optimised for a class takes the place of its samples.

Tarun et al., "Fast yet effective machine unlearning", IEEE TNNLS 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import (
    Plan,
    Strategy,
    Unlearner,
    adamw,
    columns,
    editable,
    learned,
    remove_forgotten,
    retained,
)
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest, Joined, Rows, Samples, Subset


@final
class UNSIR(Unlearner):
    """Learns noise in place of a class, then repairs; choose it when its samples are gone. Approximate.

    Train on noise labelled as the forgotten class (impair), then on the retain set (repair). Reads the retain set only.

    The noise maximises ``CE(class) - 0.1 ||noise||^2``. Only whole classes can be forgotten.

    Args:
        noises: Noise pictures for each class (32 in the paper).
        noise_steps: Adam steps, at rate 0.1, that shape them (25 in the paper).
        copies: How often each appears in the impair step (80 in the paper).
        impair: Epochs on noise and the retain set (1 in the paper).
        repair: Epochs on the retain set (1 in the paper).
        share: Share of the retain set that is read.
        lr: Learning rate of AdamW; None trains as the model section says.
        keep_rows: Keep scoring forgotten classes, to measure the edit alone.
    """

    needs = frozenset({"retain"})

    def __init__(
        self,
        noises: int = 32,
        noise_steps: int = 25,
        copies: int = 80,
        impair: int = 1,
        repair: int = 1,
        share: float = 1.0,
        lr: float | None = None,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.noises, self.noise_steps, self.copies, self.impair, self.repair = (
            noises,
            noise_steps,
            copies,
            impair,
            repair,
        )
        self.share, self.lr, self.keep_rows = share, lr, keep_rows

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse requests that name single samples, and inputs that noise cannot replace."""
        if not model.backbone.smooth:
            return f"noise cannot stand for the inputs of {model.backbone.name}, which no gradient reaches"
        partly = event.single or set(event.data.labels.tolist()) - set(event.classes)
        return "it makes noise for a class, and samples of it stay" if partly else None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Make the noise, impair, repair, then remove the classes."""
        stay, params = retained(event, self.share), editable(model)
        noise: list[Samples] = [self.opposite(model, strategy, c, stay[[0]].x) for c in event.classes]
        yield Plan(Joined([*noise, stay]), params, learned(strategy), self.impair, adamw(self.lr))
        yield Plan(stay, params, learned(strategy), self.repair, adamw(self.lr))
        remove_forgotten(model, strategy, event, self.keep_rows)

    def opposite(self, model: Model, strategy: Strategy, label: int, like: Tensor) -> Samples:
        """Return copies of noise shaped as ``like`` ``(1, ...)`` that the model takes for anything but ``label``."""
        noise = torch.randn(self.noises, *like.shape[1:], device=model.device, requires_grad=True)
        y, adam = torch.full((self.noises,), label, device=model.device), torch.optim.Adam([noise], lr=0.1)
        for _ in range(self.noise_steps):
            adam.zero_grad()
            loss = cross_entropy(strategy.predict(model, noise), columns(model, y))
            (0.1 * noise.square().flatten(1).sum(1).mean() - loss).backward()  # type: ignore[no-untyped-call]
            adam.step()
        noisy = Rows(noise.detach().cpu(), y.cpu(), torch.full((self.noises,), -1))
        return Subset(noisy, torch.arange(self.noises).repeat(self.copies))

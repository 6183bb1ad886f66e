"""EWC: finetuning with a quadratic penalty on each parameter's change, weighted by Fisher information.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 114, 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.memory import Key, TensorStore
from cl_framework.methods import Plan, Strategy, batches, classify, mean_square, open_to_gradients
from cl_framework.models import Model
from cl_framework.streams import Batch, Experience, Inputs


@final
class EWC(Strategy):
    """Ties weights to old values by Fisher information; choose it as the classic baseline without memory.

    ``CE + strength / 2 sum_t sum_i F_ti (p_i - p_ti)^2`` (Eq. 3), one term for each experience ``t`` so far.

    ``F`` is the mean over the experience's samples of the squared gradient, each sample by itself: gradients of whole
    batches, which several ports square, give less by about the size of the batch. Rows of the head are filed by class
    and deleted with it.

    Args:
        strength: Weight of the penalty; the paper tunes it, PyCIL takes 1000.
        largest: What ``F`` is cut off at; None leaves it whole, as in the paper, but training then diverges once the
            learning rate times ``strength`` times the largest ``F`` is above 2, which no default of ``strength`` rules
            out. PyCIL's limit is 1e-4 too, of gradients of batches, so that it bites less there.
    """

    repeats = True

    def __init__(self, strength: float = 1000.0, largest: float | None = 1e-4) -> None:
        """Start without penalties."""
        super().__init__()
        self.strength, self.largest, self.filed = strength, largest, TensorStore()

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train with the penalties, then estimate the Fisher information of this experience and store it."""
        params = model.ready("shared", event.classes)
        for entry in [e for e in self.filed if e.experience not in model.experiences]:
            del self.filed[entry]  # no class is left to protect
        ties = self._ties(model, params)

        def loss(model: Model, batch: Batch) -> Tensor:
            held = [(f * (p - centre).square()).sum() for p, (f, centre) in zip(params, ties, strict=True)]
            return classify(model, batch) + self.strength / 2 * torch.stack(held).sum()

        yield Plan(event.data, params, loss if len(self.filed) else classify)
        if self.strength:
            with open_to_gradients(model, params):
                each = batches(event.reference, 1, model.device)
                squares = mean_square(lambda batch: classify(model, batch), params, each)
            fisher = [f if self.largest is None else f.clamp_max(self.largest) for f in squares]
            for entry, both in _pieces(model, [torch.stack(b, -1) for b in zip(fisher, params, strict=True)], params):
                self.filed[entry._replace(experience=event.name)] = both

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and head."""
        return model.scores(x, "shared")

    def _ties(self, model: Model, params: Sequence[nn.Parameter]) -> list[tuple[Tensor, Tensor]]:
        """Return of each parameter the sum of ``F_t``, and the mean of ``p_t`` weighted by ``F_t``."""
        sums = [torch.stack([torch.zeros_like(p)] * 2, -1) for p in params]
        for entry, here in _pieces(model, sums, params):
            for other in (e for e in self.filed if e._replace(experience=None) == entry):
                fisher, value = self.filed[other].unbind(-1)
                here += torch.stack([fisher, fisher * value], -1)
        return [(s[..., 0], s[..., 1] / s[..., 0].clamp_min(1e-30)) for s in sums]


def _pieces(model: Model, values: Sequence[Tensor], params: Sequence[nn.Parameter]) -> Iterator[tuple[Key, Tensor]]:
    """Cut values of the parameters into what is filed: rows of the head by class, anything else as a whole."""
    head = {id(p) for p in model.head.parameters() if p.ndim}
    for k, (value, p) in enumerate(zip(values, params, strict=True)):
        if id(p) in head:
            yield from ((Key(c, name=str(k)), row) for c, row in zip(model.head.classes, value, strict=True))
        else:
            yield Key(name=str(k)), value

"""What approximate forgetting is made of: what may change, batches in pairs, a teacher, and parting with a class.

An approximate unlearner edits adapters of a model whose trained state is shared; the backbone and the head stay as they
are. What a class taught the adapters is counteracted, not taken out, which is why such an edit is audited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cl_framework.erasure import Erasure, erase
from cl_framework.model import Model
from cl_framework.strategy import Params, Strategy
from cl_framework.stream import Batch, ForgetRequest, Joined, Samples


def shared_only(strategy: Strategy) -> str | None:
    """Object to strategies that keep classes, experiences or samples apart: they can forget exactly."""
    if strategy.isolates is None and not strategy.subtracts:
        return None
    exact = "Subtract" if strategy.subtracts else "DropAdapter"
    return f"{type(strategy).__name__} keeps what it learns apart and forgets exactly with {exact}"


def unsuited(strategy: Strategy, event: ForgetRequest) -> str | None:
    """Object as `shared_only` does, and where nothing would stay that an edit has to keep."""
    if objection := shared_only(strategy):
        return objection
    return None if event.remaining else "an edit has to keep something, and nothing would stay"


def adamw(lr: float | None, weight_decay: float = 0.0) -> Callable[[Params], Optimizer] | None:
    """Return how to build AdamW; None, where no rate is given, leaves the choice to the model section."""
    return None if lr is None else lambda params: AdamW(params, lr=lr, weight_decay=weight_decay)


def editable(model: Model) -> list[nn.Parameter]:
    """Return what was trained and may be edited in place: every adapter but the edits of earlier requests."""
    return [p for name in model.adapters if name not in model.adapters.stack for p in model.adapters.params(name)]


def columns(model: Model, labels: Tensor) -> Tensor:
    """Return the column of each class id ``(n,)`` in the model's scores."""
    alive = torch.tensor(model.classes, device=labels.device)
    return (labels[:, None] == alive).int().argmax(1)


def retained(event: ForgetRequest, share: float = 1.0) -> Samples:
    """Return the samples that stay, with the training transform; of each class a random ``share``, at least one."""
    return Joined([_some(e.data, share) for e in event.remaining])


def _some(samples: Samples, share: float) -> Samples:
    if share >= 1:
        return samples
    keep = torch.zeros(len(samples), dtype=torch.bool)
    for c in samples.labels.unique():  # type: ignore[no-untyped-call]
        of = (samples.labels == c).nonzero()[:, 0]
        keep[of[torch.randperm(len(of))[: max(1, round(share * len(of)))]]] = True
    return samples.where(keep)


@final
class Paired(Samples):
    """Samples to retain, where every batch also brings as many samples to forget, drawn anew each time.

    An epoch goes once through the samples to retain. `gone` tells the two apart.

    >>> from cl_framework.stream import Rows
    >>> a, b = (Rows(torch.zeros(3, 1), torch.full((3,), c), torch.arange(3) + 10 * c) for c in (0, 1))
    >>> pairs = Paired(retain=a, forget=b)
    >>> pairs.gone(pairs[[0, 2]]).tolist()
    [False, False, True, True]
    """

    def __init__(self, retain: Samples, forget: Samples) -> None:
        """Join both."""
        self.retain, self.forget = retain, forget
        self.labels, self.ids, self.key = retain.labels, retain.ids, None

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read the rows to retain, then as many to forget."""
        drawn = torch.randint(len(self.forget), (len(rows),)).tolist()
        return Batch(*(torch.cat(pair) for pair in zip(self.retain[rows], self.forget[drawn], strict=True)))

    def classes(self) -> list[int]:
        """Return the classes of both."""
        return sorted({*self.retain.classes(), *self.forget.classes()})

    def gone(self, batch: Batch) -> Tensor:
        """Return a mask ``(n,)`` of the samples of ``batch`` that are to be forgotten."""
        return torch.isin(batch.ids, self.forget.ids.to(batch.ids.device))


@final
class Teacher:
    """The model as it was: its weights are put back for the length of a pass, so that nothing is copied but adapters.

    Ask the teacher before the student makes a pass of its own in the same loss: the weights change in place.
    """

    def __init__(self, model: Model, strategy: Strategy, params: Sequence[nn.Parameter]) -> None:
        """Remember ``params`` as they are now."""
        self.model, self.strategy, self.params = model, strategy, list(params)
        self.then = [p.detach().clone() for p in params]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores ``(n, classes)`` that the model gave then."""
        now, training = [p.detach().clone() for p in self.params], self.model.adapters.training
        self.put(self.then)
        self.model.adapters.eval()
        scores = self.strategy.predict(self.model, x)
        self.model.adapters.train(training)
        self.put(now)
        return scores

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Give the parameters other values."""
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)


def part(model: Model, strategy: Strategy, event: ForgetRequest, keep_rows: bool = False) -> None:
    """Let what was forgotten leave memory and, unless ``keep_rows``, the label space: nothing can name it any more.

    With ``keep_rows`` the head goes on scoring forgotten classes, as the protocol of GS-LoRA does, so that accuracy on
    them says what the edit alone achieved.
    """
    classes = frozenset[int]() if keep_rows else frozenset(event.classes)
    erase(Erasure(classes, ids=frozenset(event.data.ids.tolist())), model, strategy)

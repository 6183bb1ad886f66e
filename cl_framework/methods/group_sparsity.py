"""Edits that change few blocks: groups of an adapter's parameters and a group lasso on them.

Zhao et al., "Continual forgetting for pre-trained vision models", CVPR 2024, Sec. 4 (GS-LoRA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cl_framework.adapters.bank import AdapterBank
from cl_framework.methods.base import Params
from cl_framework.models.model import Model

Grouping: TypeAlias = Literal["block", "site", "matrix"]
Groups: TypeAlias = Sequence[Sequence[nn.Parameter]]


@final
@dataclass(frozen=True, slots=True)
class Sparsity:
    """Sparsity of an update: weight, start and units.

    The two forms count in different units. In the loss, alpha weighs a group's norm against cross-entropies. A proximal
    step of ``lr alpha`` stands against AdamW's own step, which moves each of a group's n parameters by about ``lr``
    whatever the scale of the loss, and so the group by about ``lr sqrt(n)``: alpha counts against ``sqrt(n)``, 80 for
    rank 4 on both MLP maps of glyph_vit. The released 1e-2 does nothing there and from ``sqrt(n)`` on nothing survives;
    a share c of it leaves the groups whose steps agree, from batch to batch, in more than c of their length. It shrinks
    what forgets, too: under balanced gradients an eighth already costs most of it, without a single zero group.

    Attributes:
        alpha: Weight of the sum of group norms.
        form: ``proximal`` shrinks groups after each step and yields true zeros; ``penalty`` adds the norms to the loss.
        by: What makes up a group: a transformer block, a site, or each matrix.
        warmup: Epochs without sparsity.
    """

    alpha: float
    form: Literal["proximal", "penalty"] = "proximal"
    by: Grouping = "block"
    warmup: int = 0

    def notes(self, bank: AdapterBank, name: str) -> dict[str, float]:
        """Return, for results and receipts, the share of groups that an edit left at zero."""
        return {"zero_group_ratio": zero_ratio(bank, name, self.by)}


@final
class SparseDelta:
    """A new delta on top of the stack, its optimiser, and the sparsity it is trained under.

    Attributes:
        params: Parameters to train.
        groups: The same, by group.
        epoch: Passes over the data that are complete.
    """

    def __init__(self, model: Model, name: str, sparsity: Sparsity, size: int, lr: float = 1e-2) -> None:
        """Add an update that starts at zero; ``size`` samples make an epoch."""
        self.params = model.adapters.push(name)
        self.groups = list(groups(model.adapters, name, sparsity.by).values())
        self.sparsity, self.size, self.lr, self.epoch, self._seen = sparsity, size, lr, 0, 0

    def adamw(self, params: Params) -> Optimizer:
        """Return the optimiser of the released code; in the proximal form each of its steps ends in a proximal one."""
        optimizer = AdamW(params, lr=self.lr, weight_decay=0.05)
        optimizer.register_step_post_hook(self._shrink)
        return optimizer

    @property
    def complete(self) -> bool:
        """Whether the batch last seen ended an epoch."""
        return self._seen > 0 and self._seen % self.size == 0

    def saw(self, count: int) -> None:
        """Count samples of the epoch before a step."""
        self.epoch, self._seen = self._seen // self.size, self._seen + count

    def penalty(self) -> Tensor | float:
        """Return the penalty: ``alpha sum_g ||g||_2`` in the penalty form, after the warm-up."""
        on = self.sparsity.form == "penalty" and self.sparsity.alpha > 0 and self.epoch >= self.sparsity.warmup
        return self.sparsity.alpha * norms(self.groups).sum() if on else 0.0

    def _shrink(self, optimizer: Optimizer, *_: object) -> None:
        """Follow a step at its own learning rate, which a schedule may change before the plan's callback."""
        if self.sparsity.form == "proximal" and self.epoch >= self.sparsity.warmup:
            shrink(self.groups, optimizer.param_groups[0]["lr"] * self.sparsity.alpha)


@final
class Average:
    """A delta's moving average: ``ema <- keep ema + (1 - keep) delta`` at the end of each epoch, of its factors."""

    def __init__(self, delta: SparseDelta, keep: float | None, start: int = 0) -> None:
        """Average from epoch ``start`` on, or not at all where ``keep`` is None."""
        self.delta, self.keep, self.start = delta, keep, start
        self.values: list[Tensor] = []

    @torch.no_grad()
    def step(self, model: Model) -> None:
        """After a step that ends an epoch, add the weights to the average."""
        if self.keep is None or not self.delta.complete or self.delta.epoch < self.start:
            return
        if not self.values:
            self.values = [p.clone() for p in self.delta.params]
        for value, p in zip(self.values, self.delta.params, strict=True):
            value.mul_(self.keep).add_(p, alpha=1 - self.keep)

    @torch.no_grad()
    def put(self) -> None:
        """Replace the delta by its average, if there is one."""
        for value, p in zip(self.values, self.delta.params if self.values else (), strict=True):
            p.copy_(value)


def groups(bank: AdapterBank, name: str, by: Grouping = "block") -> dict[str, list[nn.Parameter]]:
    """Divide the parameters of one adapter, each into exactly one group, by the name of what it rewrites."""
    by_key: dict[str, list[nn.Parameter]] = {}
    for key, p in bank.rewrites[name].named_parameters():
        site = key.split(".")[0]
        by_key.setdefault({"block": block_of(site), "site": site, "matrix": key}[by], []).append(p)
    return by_key


def block_of(site: str) -> str:
    """Return the transformer block of a site: its path up to the last number, nothing where it has none.

    >>> block_of("blocks/3/mlp/mlp_in"), block_of("layers/0/blocks/1/attn/key"), block_of("query")
    ('blocks/3', 'layers/0/blocks/1', '')
    """
    path = site.split("/")
    return "/".join(path[: max((i + 1 for i, part in enumerate(path) if part.isdecimal()), default=0)])


def norms(groups: Groups) -> Tensor:
    """Return the Euclidean norm of each group ``(groups,)``; its gradient at zero is zero."""
    return torch.stack([torch.linalg.vector_norm(torch.cat([p.flatten() for p in g])) for g in groups])


@torch.no_grad()
def shrink(groups: Groups, amount: float) -> None:
    """Move every group towards zero by ``amount`` of its norm, and no further: ``g <- g max(0, 1 - amount / ||g||)``.

    The proximal operator of ``amount ||g||_2`` (Parikh and Boyd, "Proximal algorithms", 2014, Sec. 6.5.1).

    >>> g = nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> shrink([[g]], 1.0); g.tolist()
    [2.4000000953674316, 3.200000047683716]
    >>> shrink([[g]], 9.0); g.tolist()
    [0.0, 0.0]
    """
    for group, norm in zip(groups, norms(groups).tolist(), strict=True):
        for p in group:
            p.mul_(max(0.0, 1.0 - amount / norm) if norm > 0 else 0.0)


def zero_ratio(bank: AdapterBank, name: str, by: Grouping = "block") -> float:
    """Return the share of groups of an edit that are exactly zero: blocks that the request left as they were."""
    return float((norms(list(groups(bank, name, by).values())) == 0).float().mean())

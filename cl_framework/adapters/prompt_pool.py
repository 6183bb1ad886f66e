"""A pool of prompts with keys: each sample gets the prompts whose keys are closest to its pristine feature."""

from __future__ import annotations

from abc import ABC
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.base import Adapter, QueryRewrite, Rewrite
from cl_framework.backbones.base import Site
from cl_framework.errors import UserError


class PromptPooling(Rewrite, ABC):
    """Rewrites of a pool, at its input and output; strategies that need a pool require it."""


@final
class PromptPool(Adapter):
    """Adds prompts that each sample chooses by its own feature; choose it for L2P, which needs it.

    The prompts of L2P (Wang et al., CVPR 2022, Secs. 4.1-4.2): the ``top`` closest to a sample are added to its tokens.

    They join after the embedding and pass through all blocks; the feature is the mean of what comes out of them
    behind the final norm. (Attention has no order, so it does not matter that they come last.) Two pools cannot be
    active at once, since each replaces the feature.

    ``choice="batch"`` is how L2P was released: the ``top`` prompts that most samples of a batch would choose are shown
    to all of them, at test time too. Test batches came sorted by class, so that the vote tells which task a sample
    belongs to: it leaks the task, and such figures cannot be compared with others (one
    user's 75.95 fell to 61.85 on shuffled batches). A batch is what is passed at once: with ``batch`` up to 64 samples
    at test time, in the order of the data; with ``batch_by_class_as_released`` ``votes``, in the order in which their
    classes came. Nothing made so is stored, and a prediction depends on the batch of its sample.

    The release also adds the class token's position embedding to every prompt. The position is frozen, so this is
    another start of the prompts and nothing else: ``start="class_position_as_released"``.

    Args:
        size: Prompts in the pool.
        length: Tokens of a prompt.
        top: Prompts that a sample is shown.
        choice: Whether each ``sample`` chooses for itself, or its ``batch`` by vote.
        votes: Samples of a batch at test time as released: as many as in training.
        start: Where prompts start: ``uniform`` between -1 and 1, or shifted by the class token's position.
    """

    needs = frozenset({"block_in", "tokens_out"})
    neutral = several = False

    def __init__(
        self,
        size: int = 10,
        length: int = 5,
        top: int = 5,
        choice: Literal["sample", "batch", "batch_by_class_as_released"] = "sample",
        start: Literal["uniform", "class_position_as_released"] = "uniform",
        votes: int = 16,
    ) -> None:
        """Store the shape of the pool and the choice.

        Raises:
            UserError: If the pool holds fewer prompts than ``top``, or the choice is unknown.
        """
        if not 1 <= top <= size or length < 1 or votes < 1:
            raise UserError(
                f"A pool of {size} prompts of {length} tokens cannot show {top} to {votes} samples; choose top <= size."
            )
        if choice not in ("sample", "batch", "batch_by_class_as_released"):
            raise UserError(f"A sample or its batch chooses prompts; found choice={choice!r}.")
        self.size, self.length, self.top, self.coupled = size, length, top, choice != "sample"
        self.together = votes if choice == "batch_by_class_as_released" else None
        self.shifted = start == "class_position_as_released"

    def build(self, site: Site) -> Rewrite | None:
        """Add prompts before the first block, and pool them at the end."""
        if site.role == "block_in" and site.block == 0:
            if self.shifted and site.position is None:
                raise UserError("This backbone's class token has no position to start prompts at; set start: uniform.")
            return Pool(site.width_out, self, site.position if self.shifted else None)
        return _Answer(self.top * self.length) if site.role == "tokens_out" else None


@final
class Pool(PromptPooling, QueryRewrite):
    """Prompts ``(size, length, width)`` and their keys ``(size, width)``, both uniform between -1 and 1 at first.

    Prompts may be shifted from there by a position ``(width,)``.
    """

    def __init__(self, width: int, spec: PromptPool, shift: Tensor | None = None) -> None:
        """Draw prompts and keys."""
        super().__init__()
        prompts = torch.empty(spec.size, spec.length, width).uniform_(-1, 1)
        self.prompts = nn.Parameter(prompts if shift is None else prompts + shift.to(prompts))
        self.keys = nn.Parameter(torch.empty(spec.size, width).uniform_(-1, 1))
        self.top, self.vote = spec.top, spec.coupled

    def forward(self, given: Tensor, out: Tensor, query: Tensor | None = None) -> Tensor:
        """Add the chosen prompts to the tokens."""
        if query is None:
            raise RuntimeError("A prompt pool chooses by a query; pass inputs through `Model.features`.")
        return torch.cat([out, self.prompts[self.chosen(query)].flatten(1, 2)], 1)

    def chosen(self, query: Tensor) -> Tensor:
        """Return which prompts the samples of ``query`` ``(n, width)`` are shown, ``(n, top)``."""
        own = self._cosines(query).topk(self.top, dim=1).indices
        if not self.vote:
            return own
        return own.flatten().bincount(minlength=len(self.keys)).topk(self.top).indices.expand(len(query), -1)

    def agreement(self, query: Tensor) -> Tensor:
        """Return the sum ``(n,)`` of each query's cosines with the keys of the prompts it is shown."""
        return self._cosines(query).gather(1, self.chosen(query)).sum(1)

    def _cosines(self, query: Tensor) -> Tensor:
        return normalize(query, dim=-1) @ normalize(self.keys, dim=-1).T


@final
class _Answer(PromptPooling):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Replace every other token by the prompts' mean, which any pooling then returns as the feature."""
        answer = out[:, -self.tokens :].mean(1, keepdim=True)
        return answer.expand(-1, out.shape[1] - self.tokens, -1)


def pool_of(bank: AdapterBank, name: str) -> Pool:
    """Return the pool of one adapter, of a bank whose adapters are prompt pools."""
    return next(r for r in bank.rewrites[name].children() if isinstance(r, Pool))

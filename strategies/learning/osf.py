"""OSF: training that leaves the largest singular directions of every weight alone.

Nayak et al., "Sculpting subspaces: Constrained full fine-tuning in LLMs for continual learning", arXiv 2504.07097,
2025.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from cl_framework import chain
from cl_framework.lowrank import LowRank, frozen_weight, total
from cl_framework.model import Model
from cl_framework.strategy import Plan, Strategy
from cl_framework.stream import Experience, Inputs
from cl_framework.subspace import off, top_block


@final
class OSF(Strategy):
    """Each experience adds to ``W = U S V^T``, the weight as it is by then, only what ``U_h`` and ``V_h`` do not see.

    The top block is ``U_h S_h V_h^T``. The paper trains ``U_l, S_l, V_l`` of the rest with gradients projected off
    ``U_h`` and ``V_h``. Here the backbone stays frozen and the same set of changes, ``B A`` with ``U_h^T B = 0`` and
    ``A V_h = 0``, is a low-rank correction beside it; a rank of ``min(width_in, width_out)`` less the block's reaches
    all of it. Projected gradients alone do not hold the constraint, because Adam scales every entry and weight decay
    pulls at each: the factors themselves are projected after every step, and it holds to rounding. Published numbers
    are of T5 and LLaMA; the head and ``compete`` are ours, and the paper's choice of a rank per layer is left out.

    Args:
        effective_rank: Rank of the block that is kept: a share of the smaller width, or a number of directions.
        growth: Added to it for every earlier experience (the example in peft keeps 0.3, 0.5, 0.7).
        compete: Whether a new class is told from the classes of its own experience (``current``) or from ``all``.
    """

    rewrites = LowRank
    repeats = True

    def __init__(self, effective_rank: float = 0.5, growth: float = 0.0, compete: chain.Compete = "current") -> None:
        """Keep how much stays."""
        super().__init__()
        self.effective_rank, self.growth = effective_rank, growth
        self.compete: chain.Compete = compete

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train a correction that is orthogonal to the top block of the frozen weight with earlier corrections."""
        before, mine = chain.extend(model, event)
        moved = total(model.adapters, before)
        blocks = {}
        for site, rewrite in mine.items():
            weight = frozen_weight(model.adapters.sites[site])
            weight = weight + moved[site] if before else weight
            blocks[site] = [q.to(rewrite.a) for q in top_block(weight, self._rank(min(weight.shape), len(before)))]

        @torch.no_grad()
        def project(_: Model) -> None:
            for site, (left, right) in blocks.items():
                mine[site].a.copy_(off(mine[site].a, right))
                mine[site].b.copy_(off(mine[site].b.T, left).T)

        project(model)
        params = [p for r in mine.values() for p in (r.a, r.b)]
        yield chain.plan(model, event, params, self.compete, after_step=project)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with all corrections and the head."""
        return model.scores(x, model.adapters.learned)

    def _rank(self, width: int, earlier: int) -> int:
        asked = self.effective_rank + self.growth * earlier
        return min(round(asked * width) if self.effective_rank < 1 else round(asked), width)

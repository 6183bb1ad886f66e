"""O-LoRA: every experience gets its own low-rank update, kept orthogonal to all earlier ones by a penalty.

Wang et al., "Orthogonal subspace learning for language model continual learning", Findings of EMNLP 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.adapters import LowRank, Side, directions, past_directions
from cl_framework.functional import Norm, interference
from cl_framework.methods import Compete, Plan, Strategy, adapter_chain
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class OLoRA(Strategy):
    """Adds low-rank updates kept orthogonal by a penalty; choose it where no old sample may be kept.

    Low-rank updates added up, ``loss + weight sum_i |A_i A_t^T|^2`` over all earlier ones.

    The paper sums squared entries (Eq. 8); its code, from which the published numbers come, sums absolute values:
    ``norm="l1"``. Its experiments are on T5 and LLaMA, which write labels as text; there is no published number for
    images. The head and ``compete`` are therefore ours. Give it LoRA of rank 8 on queries and values, as released.

    Args:
        weight: Of the penalty (0.5; 0 and 5 on the paper's long streams).
        weight_l2: Of the norms of the new factors (0; 0.1 and 0.3 on the long streams).
        norm: ``squared`` as in the paper, ``l1`` as released.
        side: Whether directions of the input are kept apart (as published), of the output, or both.
        cosines: Measure the mean over pairs of directions of length one, so that one weight suits any rank and width.
        compete: Whether a new class is told from the classes of its own experience (``current``) or from ``all``.
    """

    rewrites = LowRank
    repeats = True

    def __init__(
        self,
        weight: float = 0.5,
        weight_l2: float = 0.0,
        norm: Norm = "squared",
        side: Side = "input",
        cosines: bool = False,
        compete: Compete = "current",
    ) -> None:
        """Store the weights of the penalties."""
        super().__init__()
        self.weight, self.weight_l2, self.norm, self.side, self.cosines = weight, weight_l2, norm, side, cosines
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train a new update and the head, with earlier updates active and frozen."""
        before, mine = adapter_chain.extend(model, event)
        past = past_directions(model.adapters, before, self.side)

        def penalty() -> Tensor:
            apart = model.head.weight.new_zeros(())
            for site, rewrite in mine.items():
                for new, others in zip(directions(rewrite, self.side), past.get(site, ()), strict=False):
                    apart = apart + self.weight * interference(new, others, self.norm, self.cosines)
                if self.weight_l2:
                    apart = apart + self.weight_l2 * (rewrite.a.norm() + rewrite.b.norm())
            return apart

        yield adapter_chain.chain_plan(
            model, event, [p for r in mine.values() for p in (r.a, r.b)], self.compete, penalty
        )

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with all updates and the head."""
        return model.scores(x, model.adapters.learned)

"""OSF: training outside the largest singular directions of every weight.

Nayak et al., "Sculpting subspaces: Constrained full fine-tuning in LLMs for continual learning", arXiv 2504.07097,
2025.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

from torch import Tensor

from cl_framework.adapters import LowRank, frozen_weight, kept_off, total
from cl_framework.errors import UserError
from cl_framework.functional import top_block
from cl_framework.methods import Compete, Plan, Strategy, adapter_chain
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class OSF(Strategy):
    """Trains only outside each weight's largest singular directions; choose it to protect pre-training.

    Each experience adds to ``W = U S V^T``, the weight at that time, only what is orthogonal to ``U_h`` and ``V_h``.

    The top block is ``U_h S_h V_h^T``. The paper trains ``U_l, S_l, V_l`` of the rest with gradients projected off
    ``U_h`` and ``V_h``. Here the backbone stays frozen and the same set of changes, ``B A`` with ``U_h^T B = 0`` and
    ``A V_h = 0``, is a low-rank update beside it; a rank of ``min(width_in, width_out)`` less the block's reaches
    all of it. Projected gradients alone do not hold the constraint, because Adam scales every entry: the factors
    themselves are projected after every step, and it holds to rounding. Published numbers are of T5 and LLaMA, with
    projected gradients; the head and ``compete`` are ours, and the paper's choice of a rank per layer is left out.

    Args:
        effective_rank: Rank of the block that is kept: 0.5 is a share of the smaller width, 8 a number of directions.
        growth: Added to it for every earlier experience (the example in peft keeps 0.3, 0.5, 0.7).
        hold: What is projected: the ``factors`` after each step, or only their gradients before it, as released.
        compete: Whether a new class is told from the classes of its own experience (``current``) or from ``all``.
    """

    rewrites = LowRank
    repeats = True

    def __init__(
        self,
        effective_rank: int | float = 0.5,
        growth: int | float = 0.0,
        compete: Compete = "current",
        hold: Literal["factors", "gradients_as_released"] = "factors",
    ) -> None:
        """Store the settings."""
        super().__init__()
        shares = isinstance(effective_rank, float)
        if not 0 <= effective_rank <= (1 if shares else float("inf")) or not growth >= 0:
            raise UserError(
                f"OSF keeps a share of the directions (0.0 to 1.0) or a whole number of them, and adds none or more; "
                f"found effective_rank={effective_rank} and growth={growth}; set others."
            )
        if growth and isinstance(growth, float) != shares:
            raise UserError(
                f"OSF adds shares to a share and directions to a number of directions; found effective_rank="
                f"{effective_rank} and growth={growth}; write both with a decimal point or both without."
            )
        self.effective_rank, self.growth, self.hold = effective_rank, growth, hold
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train an update orthogonal to the top block of the frozen weight plus earlier updates."""
        before, mine = adapter_chain.extend(model, event)
        moved = total(model.adapters, before)
        blocks = {}
        for site, rewrite in mine.items():
            weight = frozen_weight(model.adapters.sites[site])
            weight = weight + moved[site] if before else weight
            left, right = top_block(weight, self._rank(min(weight.shape), len(before)))
            blocks[site] = (left.to(rewrite.a), right.to(rewrite.a))

        project = kept_off(mine, blocks)
        project(model)  # where `a` was drawn; `b` starts at zero
        params = [p for r in mine.values() for p in (r.a, r.b)]
        if self.hold == "factors":
            yield adapter_chain.chain_plan(model, event, params, self.compete, after_step=project)
        else:
            edit = kept_off(mine, blocks, gradients=True)
            yield adapter_chain.chain_plan(model, event, params, self.compete, edit_gradients=edit)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with all updates and the head."""
        return model.scores(x, model.adapters.learned)

    def _rank(self, width: int, earlier: int) -> int:
        asked = self.effective_rank + self.growth * earlier
        return min(round(asked * width) if isinstance(self.effective_rank, float) else round(asked), width)

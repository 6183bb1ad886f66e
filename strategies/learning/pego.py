"""PEGO: groups of low-rank updates that preserve the pre-trained weight and differ from one another.

Hu et al., "Learn to preserve and diversify: Parameter-efficient group with orthogonal regularization for domain
generalization", ECCV 2024. Written from the paper: the authors' code was not available.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.adapters import LowRank, Side, directions, frozen_weight, of_side, past_directions
from cl_framework.errors import UserError
from cl_framework.functional import Norm, diversity, preservation, top_block
from cl_framework.methods import Compete, Plan, Strategy, adapter_chain
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class PEGO(Strategy):
    """Trains groups of diverse low-rank updates; choose it when experiences are different domains.

    Each experience trains a group of updates, ``W + sum_n B_n A_n``, on top of earlier groups.

    ``loss + preserve mean_n |A_n W^T|^2 / |W|^2 + diversify mean_{n,m} |A_n A_m^T|^2``, means over sites as well. The
    method is about one training on several domains; in a stream new members are also kept orthogonal to those of
    earlier experiences. Norms, weights and this extension are our reading. A group is one LoRA whose rank is split:
    four members of rank 4 are rank 16.

    A square weight of full rank leaves no direction free, so that ``preserve`` also pulls ``A`` towards zero; measure
    ``cosines`` to prevent that, and only the ``top`` directions of the weight for a penalty that can reach zero.

    Args:
        preserve: Weight of orthogonality to the pre-trained weight.
        diversify: Weight of orthogonality between members.
        group: Members of a group; the rank must be a multiple. A rank below it gives as many members of rank 1.
        norm: ``squared`` Frobenius norms or sums of absolute values (``l1``).
        cosines: Bring directions to length one first.
        side: Whether directions of the input are compared, of the output, or both.
        top: Compare with this many leading singular vectors of the weight instead of all of it.
        compete: Whether a new class is told from the classes of its own experience (``current``) or from ``all``.
    """

    rewrites = LowRank
    repeats = True

    def __init__(
        self,
        preserve: float = 1.0,
        diversify: float = 1.0,
        group: int = 4,
        norm: Norm = "squared",
        cosines: bool = False,
        side: Side = "input",
        top: int | None = None,
        compete: Compete = "current",
    ) -> None:
        """Store the weights and what is measured."""
        super().__init__()
        self.preserve, self.diversify, self.group, self.side, self.top = preserve, diversify, group, side, top
        self.how, self.compete = (norm, cosines), compete
        self.competes = "known" if compete == "all" else "new"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train a new group and the head, with earlier groups active and frozen."""
        before, mine = adapter_chain.extend(model, event)
        rank = max(len(r.a) for r in mine.values())
        if rank > self.group and rank % self.group:
            raise UserError(f"PEGO shares rank {rank} out to {self.group} members; make `rank` a multiple of that.")
        share = max(rank // self.group, 1)
        past = past_directions(model.adapters, before, self.side)
        weights = {site: self._read(frozen_weight(model.adapters.sites[site])) for site in mine}

        def penalty() -> Tensor:
            total = model.head.weight.new_zeros(())
            for site, rewrite in mine.items():
                others = [r.reshape(-1, share, r.shape[2]) for r in past.get(site, ())]
                for i, rows in enumerate(directions(rewrite, self.side)):
                    group, earlier = rows.reshape(-1, share, rows.shape[1]), others[i] if others else None
                    total = total + self.preserve * preservation(group, weights[site][i], *self.how)
                    total = total + self.diversify * diversity(group, earlier, *self.how)
            return total / len(mine)

        yield adapter_chain.chain_plan(
            model, event, [p for r in mine.values() for p in (r.a, r.b)], self.compete, penalty
        )

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with all groups and the head."""
        return model.scores(x, model.adapters.learned)

    def _read(self, weight: Tensor) -> list[Tensor]:
        """Return as rows the directions of a weight's input, of its output, or both."""
        sides = [weight, weight.T]
        if self.top is not None:
            left, right = top_block(weight, self.top)
            sides = [right.T.to(weight), left.T.to(weight)]
        return of_side(self.side, *sides)

"""Orthogonal Adaptation: updates trained apart on orthogonal bases, so that their sum is a merge.

Po et al., "Orthogonal adaptation for modular customization of diffusion models", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import linear

from cl_framework.adapters import LowRank, factors
from cl_framework.errors import UserError
from cl_framework.functional import rotation
from cl_framework.memory import Key, TensorStore
from cl_framework.methods import Compete, Plan, Strategy, other_classes, proxy_scores, under
from cl_framework.models import Head, Model
from cl_framework.streams import Experience, Inputs


@final
class OrthogonalAdaptation(Strategy):
    """Trains updates on disjoint fixed bases, each on its own; choose it to merge models trained apart.

    ``W + sum_i B_i A_i``: rows of ``A_i`` are columns of one orthogonal matrix and stay fixed, ``B_i`` is trained.

    Every experience is trained by itself, under a head of its own; predictions use the sum of all updates. With
    disjoint columns ``A_i A_j^T = 0``: an input within the directions of one update is not changed by any other. The
    matrix depends on ``seed`` and width only, so that learners agree on it without communication.

    The paper draws columns at random (``bases="random"``), of which two updates share ``r^2 / width`` in
    expectation. An experience then depends on nothing but its own samples and name, and is forgotten exactly by
    ``DropAdapter``. Disjoint columns depend on how many experiences came before, and only ``Retrain`` is exact. The
    paper's numbers are of image generation with rank 20.

    Args:
        bases: ``disjoint`` columns in the order of arrival, until none is left, or ``random`` ones.
        seed: Of the orthogonal matrix, which belongs to the method and is never stored.
        compete: Whether a new class is told from the classes of its own experience (``current``, as published) or from
            the rows of ``all`` known ones too, which experiences of a single class need and only ``Retrain`` forgets.
    """

    rewrites = LowRank
    adopts = False

    def __init__(
        self, bases: Literal["disjoint", "random"] = "disjoint", seed: int = 0, compete: Compete = "current"
    ) -> None:
        """Start without updates."""
        super().__init__()
        self.bases, self.seed, self.rows = bases, seed, TensorStore()
        self.compete: Compete = compete
        self.competes = "known" if compete == "all" else "new"
        if bases == "random" and compete == "current":
            self.isolates = "experience"

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train the output side of a new update, and a head of its own, with no other update active."""
        if event.name in model.adapters:
            return
        place = len(model.adapters.learned)
        proxy = Head(model.backbone.width, "linear", event.classes).to(model.device)
        model.adapters.add(event.name)
        mine = factors(model.adapters, event.name)
        for rewrite in mine.values():
            with torch.no_grad():
                rewrite.a.copy_(self._basis(len(rewrite.a), rewrite.a.shape[1], place))

        known = [(c, model.known[c]) for c in other_classes(model, event)] if self.compete == "all" else []
        scores = proxy_scores(proxy, *self._stacked(known)) if known else proxy
        yield under(proxy, event, [r.b for r in mine.values()], scores, [c for c, _ in known])
        for i, c in enumerate(proxy.classes):
            self.rows[Key(c, event.name, "weight")] = proxy.weight[i]
            self.rows[Key(c, event.name, "bias")] = next(p for p in proxy.parameters() if p.ndim == 1)[i]

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the sum of all updates and the rows of all heads."""
        return linear(model.features(x, model.experiences), *self._stacked(model.known.items()))

    def _stacked(self, known: Iterable[tuple[int, str]]) -> tuple[Tensor, Tensor]:
        """Return weights ``(classes, width)`` and biases ``(classes,)`` of classes and their experiences."""
        rows = [(self.rows[Key(c, e, "weight")], self.rows[Key(c, e, "bias")]) for c, e in known]
        weights, biases = zip(*rows, strict=True)
        return torch.stack(weights), torch.stack(biases)

    def _basis(self, rank: int, width: int, place: int) -> Tensor:
        if self.bases == "random":
            return rotation(width, self.seed)[:, torch.randperm(width)[:rank]].T
        if (place + 1) * rank > width:
            raise UserError(
                f"{width} directions hold {width // rank} disjoint bases of rank {rank}, not {place + 1}; "
                "lower the adapter's `rank`, or set `model.strategy.init_args.bases: random`."
            )
        return rotation(width, self.seed)[:, place * rank : (place + 1) * rank].T

"""EASE: a subspace of its own for every experience, prototypes in all of them, missing ones completed.

Zhou et al., "Expandable subspace ensemble for pre-trained model-based class-incremental learning", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.functional import class_means
from cl_framework.memory import Key, TensorStore
from cl_framework.methods import Compete, Plan, Strategy, complete, fewest, nearest, other_classes, tune, weighed
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs

_PRISTINE = ""  # the space of the backbone without adapters


@final
class EASE(Strategy):
    """Trains one adapter per experience and scores in all; choose it for accuracy and exact forgetting.

    One adapter per experience; a class is scored in its own space and, with weight ``alpha``, in all others.

    The published tables come from ``complement="all_later_as_released"`` and `Bottleneck` adapters of width 64.

    Args:
        alpha: Weight of the other subspaces, shared evenly among them.
        complement: How a class gets prototypes in the spaces that came after it: from the classes of that space only
            (``newest``, Eq. 7), or from those of later ones too, all anew each time (``all_later_as_released``).
        use_init_ptm: Score in the pristine backbone's space too.
        beta: Weight of that score.
        route: Where a sample is scored: in all subspaces, or by ``nearest:k`` only in those of the ``k`` experiences
            with a class nearest to it in the pristine space, which takes ``1 + k`` passes however many there are.
        compete: Whether an adapter learns to tell new classes from one another (``current``) or from the pristine means
            of ``all`` known ones too, which experiences of a single class need. An adapter has then met the classes
            before it, so that only ``Retrain`` forgets exactly.

    With ``V`` the subspaces that a sample is scored in, class ``c`` of subspace ``o`` scores ``a + alpha b``: ``a`` its
    cosine in ``o``, or -1, the least there is, if ``o`` is not in ``V``; ``b`` the mean of its cosines in the others
    of ``V``. So a class that was not looked at cannot win over one that was, except by ``alpha``'s share.
    """

    isolates: Literal["experience"] | None = "experience"
    competes: Literal["new", "known"] = "new"
    derived = ("complement of missing prototypes",)

    def __init__(
        self,
        alpha: float = 0.1,
        complement: Literal["newest", "all_later_as_released"] = "newest",
        use_init_ptm: bool = False,
        beta: float = 1.0,
        route: str | None = None,
        compete: Compete = "current",
    ) -> None:
        """Start without subspaces.

        Raises:
            UserError: If the route is unknown.
        """
        super().__init__()
        self.visits, self.plain = fewest(route), use_init_ptm or route is not None or compete == "all"
        self.compete: Compete = compete
        if compete == "all":
            self.isolates, self.adopts, self.competes = None, False, "known"
        self.alpha, self.beta, self.complement, self.use_init_ptm = alpha, beta, complement, use_init_ptm
        self.prototypes = TensorStore()
        self._completed: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train a new adapter under a temporary head, then compute missing prototypes in all subspaces so far."""
        if event.name not in model.adapters:
            known = other_classes(model, event) if self.compete == "all" else ()
            yield tune(model, event, {c: self.prototypes[Key(c)] for c in known})
        spaces = [*([_PRISTINE] if self.plain else []), *model.experiences[: model.experiences.index(event.name) + 1]]
        todo: dict[tuple[int, ...], list[str]] = {}
        for space in spaces:
            if missing := tuple(c for c in event.classes if Key(c, space or None) not in self.prototypes):
                todo.setdefault(missing, []).append(space)
        for missing, where in todo.items():
            z, y = model.embed_each(event.reference.of(missing), [space or () for space in where])
            for space, rows in zip(where, z, strict=True):
                for c, mean in class_means(rows, y, missing).items():
                    self.prototypes[Key(c, space or None)] = mean

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Sum a class's cosines: its own space once, the others ``alpha`` in all, the pristine one ``beta`` times."""
        prototypes, owner = self.subspaces(model)
        visited = torch.ones(len(prototypes), len(x), dtype=torch.bool, device=owner.device)
        visits = self.visits or len(prototypes)
        if visits < len(prototypes) or self.use_init_ptm:
            means = self.prototypes.stacked(model.classes)
            plain = normalize(model.features(x, ()).double(), dim=-1) @ normalize(means.double(), dim=-1).T
        if visits < len(prototypes):
            visited = nearest(plain, owner, visits)
        scores = weighed(model.each(x, model.experiences, visited), prototypes, owner, visited, self.alpha)
        return scores + self.beta * plain.to(scores.dtype) if self.use_init_ptm else scores

    def subspaces(self, model: Model) -> tuple[Tensor, Tensor]:
        """Return prototypes ``(spaces, classes, width)``, completed, of length one, and the space of each class."""
        state = (self.prototypes.version, model.classes, model.experiences)
        if self._completed is None or self._completed[0] != state:
            spaces = {name: i for i, name in enumerate(model.experiences)}
            owner = torch.tensor([spaces[model.known[c]] for c in model.classes], device=model.device)
            table = torch.zeros(len(spaces), len(owner), model.backbone.width, device=model.device)
            for i, c in enumerate(model.classes):
                for name, s in spaces.items():
                    if s <= owner[i]:
                        table[s, i] = self.prototypes[Key(c, name)]
            filled = complete(table, owner, self.complement == "newest")
            self._completed = (state, normalize(filled, dim=-1), owner)
        return self._completed[1], self._completed[2]

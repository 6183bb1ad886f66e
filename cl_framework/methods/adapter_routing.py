"""Routing of samples: each passes through its own adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.errors import UserError
from cl_framework.models.model import Model
from cl_framework.streams.lazy_inputs import Inputs


@final
class Routed:
    """Features of some inputs, each under the adapter chosen for it: each pass is made on request, once."""

    def __init__(self, model: Model, x: Inputs | Tensor) -> None:
        """Store the inputs."""
        self.model, self.x = model, x
        self._made: dict[str, Tensor] = {}  # which rows ``(n,)`` of each adapter's features are there
        self._found: dict[str, Tensor] = {}

    def __call__(self, choice: Sequence[str]) -> Tensor:
        """Return features ``(n, width)``, row ``i`` under the adapter ``choice[i]``."""
        places = {name: k for k, name in enumerate(dict.fromkeys(choice))}
        at, none = torch.tensor([places[name] for name in choice]), torch.zeros(len(choice), dtype=torch.bool)
        computed = torch.stack([self._made.get(name, none) for name in places])
        wanted = (at == torch.arange(len(places))[:, None]) & ~computed
        if bool(wanted.any()):
            new = self.model.each(self.x, list(places), wanted)
            for name, rows, z in zip(places, wanted, new, strict=True):
                here = rows[:, None].to(z.device)
                self._found[name] = torch.where(here, z, self._found[name]) if name in self._found else z
                self._made[name] = rows | self._made.get(name, none)
        whole = torch.stack([self._found[name] for name in places])
        features: Tensor = self.model.exit(whole[at.to(whole.device), torch.arange(len(at), device=whole.device)])
        return features


def fewest(route: str | None) -> int | None:
    """Return the number of experiences that ``nearest:k`` sends a sample to; None for all.

    >>> fewest("nearest:2")
    2

    Raises:
        UserError: If it is another word.
    """
    if route is None:
        return None
    kind, _, k = route.partition(":")
    if kind != "nearest" or not k.isdecimal() or int(k) < 1:
        raise UserError(f"A route is nearest:k for a number k of at least 1, or null; found {route!r}.")
    return int(k)


def nearest(likeness: Tensor, owner: Tensor, k: int) -> Tensor:
    """Return the ``k`` experiences that each sample is nearest to, ``(experiences, n)`` bool; all if there are fewer.

    An experience is as near as its nearest class.

    Args:
        likeness: ``(n, classes)``, greater is nearer; in double precision, so that a sample's choice is its own.
        owner: ``(classes,)`` the experience of each class, counted from 0, each with a class at least.
        k: How many.

    >>> nearest(torch.tensor([[0.9, 0.1, 0.5, 0.2]]), torch.tensor([0, 0, 1, 2]), 2).T.tolist()
    [[True, True, False]]
    """
    count = int(owner.max()) + 1
    near = likeness.new_full((len(likeness), count), -torch.inf)
    near = near.scatter_reduce(1, owner.expand(len(likeness), -1), likeness, "amax")
    return torch.zeros_like(near, dtype=torch.bool).scatter_(1, near.topk(min(k, count)).indices, True).T


def weighed(z: Tensor, prototypes: Tensor, owner: Tensor, visited: Tensor, alpha: float) -> Tensor:
    """Return scores ``(n, classes)``: the cosine in a class's own space, and ``alpha`` times the mean of the others.

    Args:
        z: ``(spaces, n, width)`` features.
        prototypes: ``(spaces, classes, width)`` of length one.
        owner: ``(classes,)`` the space of each class.
        visited: ``(spaces, n)`` bool; what is not visited is left out of the mean, and is -1 where it is a class's own.
        alpha: Weight of the others.
    """
    own, others = z.new_full((z.shape[1], len(owner)), -1.0), z.new_zeros(z.shape[1], len(owner))
    for s, rows in enumerate(visited):
        if bool(rows.any()):
            cosines = normalize(z[s, rows], dim=-1) @ prototypes[s].T
            own[rows] = torch.where(owner == s, cosines, own[rows])
            others[rows] += torch.where(owner == s, 0, cosines)
    count = visited.sum(0)[:, None] - visited[owner].T.int()
    return own + alpha * others / count.clamp(min=1)


def complete(prototypes: Tensor, owner: Tensor, newest: bool = False) -> Tensor:
    """Fill in the prototypes of old classes in later subspaces (Eqs. 6-7; no temperature, on purpose).

    A class resembles later classes as it does in its own subspace; the same mixture of their prototypes stands for it.

    Args:
        prototypes: ``(spaces, classes, width)``; row ``[s, i]`` is true where ``owner[i] >= s``, ignored elsewhere.
        owner: ``(classes,)`` the subspace each class came with.
        newest: Mix only the classes that came with the subspace, instead of those and all later ones.

    Returns:
        ``(spaces, classes, width)`` with every row filled.
    """
    likeness = prototypes.new_empty(len(owner), len(owner))
    for s, seen in enumerate(normalize(prototypes, dim=-1)):  # each class is compared in the space it came with
        likeness[owner == s] = seen[owner == s] @ seen.T
    filled = prototypes.clone()
    for s in range(1, len(prototypes)):
        old, source = owner < s, (owner == s) if newest else (owner >= s)
        mixture = likeness[old][:, source].softmax(-1)
        filled[s, old] = mixture @ prototypes[s, source]
    return filled

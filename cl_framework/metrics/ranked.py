"""Top-k and within-experience hits from rankings of class ids, best first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def top_k_hits(ranking: Tensor, labels: Tensor, k: int = 5) -> int:
    """Return how many samples have their class among the ``k`` best, or among all where there are fewer than ``k``.

    Args:
        ranking: ``(n, classes)`` class ids, best first.
        labels: ``(n,)`` the true ones.
        k: Number of predictions for each sample.

    >>> top_k_hits(torch.tensor([[4, 2, 7], [7, 4, 2]]), torch.tensor([2, 2]), k=2)
    1
    """
    return int((ranking[:, :k] == labels[:, None]).any(1).sum())


def within_experience_hits(ranking: Tensor, labels: Tensor, owner: Mapping[int, str]) -> int:
    """Return how many samples have their class before all others of its experience, as if the experience were known.

    Args:
        ranking: ``(n, classes)`` class ids, best first.
        labels: ``(n,)`` the true ones.
        owner: The experience that each class came with.

    >>> owner = {4: "a", 2: "a", 7: "b"}
    >>> within_experience_hits(torch.tensor([[7, 2, 4], [7, 4, 2]]), torch.tensor([2, 2]), owner)
    1
    """
    right = 0
    for name in dict.fromkeys(owner.values()):
        classes = torch.tensor([c for c, experience in owner.items() if experience == name])
        mine = torch.isin(labels, classes)
        answers, truth = ranking[mine], labels[mine]
        first = torch.isin(answers, classes).int().argmax(1, keepdim=True)
        right += int((answers.gather(1, first)[:, 0] == truth).sum())
    return right

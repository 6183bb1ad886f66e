"""Class means of features, stored for each class of each experience and pooled on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.functional.class_statistics import class_means
from cl_framework.memory.erasure import Erasure
from cl_framework.memory.tensor_store import COUNT, PRISTINE, Key, TensorStore


@final
class Means(nn.Module):
    """Mean and number of features, filed by class and experience; of a class that came again, the mean of all.

    >>> means = Means()
    >>> means.measure("a", torch.tensor([[1.0], [3.0]]), torch.tensor([7, 7]), [7])
    >>> means.measure("b", torch.tensor([[8.0]]), torch.tensor([7]), [7])
    >>> means.of([7])
    tensor([[4.]])

    Args:
        pristine: Whether the features are those of the backbone without adapters, for lineage to know.
    """

    def __init__(self, pristine: bool = False) -> None:
        """Start empty."""
        super().__init__()
        self.filed, self._name = TensorStore(), PRISTINE if pristine else ""
        self._pooled: tuple[object, Tensor] | None = None

    def missing(self, experience: str, classes: Iterable[int]) -> list[int]:
        """Return the classes of an experience without a mean."""
        return [c for c in classes if Key(c, experience, self._name) not in self.filed]

    def measure(self, experience: str, z: Tensor, y: Tensor, classes: Iterable[int]) -> None:
        """File the means of features ``(n, width)`` of classes ``(n,)`` that an experience brought."""
        for c, mean in class_means(z, y, classes).items():
            self.filed[Key(c, experience, self._name)] = mean
            self.filed[Key(c, experience, COUNT)] = (y == c).sum()

    def of(self, classes: Sequence[int]) -> Tensor:
        """Return the means ``(classes, width)``, computed once until something changes."""
        key = self.filed.version, tuple(classes)
        if self._pooled is None or self._pooled[0] != key:
            parts: dict[int | None, list[Key]] = {}
            for entry in sorted(self.filed, key=lambda e: e.experience or ""):  # no history changes it
                if entry.name == self._name:
                    parts.setdefault(entry.cls, []).append(entry)
            self._pooled = key, torch.stack([self._mean(parts[c]) for c in classes])
        return self._pooled[1]

    def erase(self, erasure: Erasure) -> None:
        """Let go of what was put together; what is filed the tensor store erases by itself."""
        self._pooled = None

    def _mean(self, parts: Sequence[Key]) -> Tensor:
        means = [self.filed[entry] for entry in parts]
        if len(parts) == 1:
            return means[0]
        counts = [self.filed[entry._replace(name=COUNT)].double() for entry in parts]
        whole = torch.stack([n * mean.double() for n, mean in zip(counts, means, strict=True)]).sum(0)
        return (whole / torch.stack(counts).sum()).to(means[0].dtype)

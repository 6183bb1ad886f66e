"""Inputs for predictions that are read only if somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from cl_framework.streams.samples import Samples


@final
class Inputs:
    """Inputs that are read on demand: a strategy predicts from them, the feature store may have their features.

    Attributes:
        ids: ``(n,)`` sample ids, meaningful together with ``key``.
        key: Source, split and transform, or None when no feature may be stored.
    """

    def __init__(self, read: Callable[[], Tensor], ids: Tensor, key: str | None = None) -> None:
        """Store the function that reads the tensor."""
        self._read, self.ids, self.key = read, ids, key
        self._tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The inputs themselves, read at most once."""
        if self._tensor is None:
            self._tensor = self._read()
        return self._tensor

    def __len__(self) -> int:
        """Count the inputs."""
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> Inputs:
        """Return the inputs at ``rows`` ``(k,)``, without reading them."""
        return Inputs(lambda: self.tensor[rows.to(self.tensor.device)], self.ids[rows.to(self.ids.device)], self.key)


def inputs(samples: Samples, batch: int) -> list[Inputs]:
    """Cut samples into inputs of at most ``batch`` that are read on demand."""
    rows = torch.split(torch.arange(len(samples)), batch) if len(samples) else ()
    return [Inputs(lambda r=r: samples[r.tolist()].x, samples.ids[r], samples.key) for r in rows]  # type: ignore[misc]

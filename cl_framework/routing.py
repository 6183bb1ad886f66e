"""Samples that each pass through an adapter of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from cl_framework.model import Model
from cl_framework.stream import Inputs


@final
class Routed:
    """Features of some inputs, each under the adapter chosen for it: a pass is made when it is asked for, and once."""

    def __init__(self, model: Model, x: Inputs | Tensor) -> None:
        """Make no pass yet."""
        self.model, self.x = model, x
        self._found: dict[tuple[str, int], Tensor] = {}

    def __call__(self, choice: Sequence[str]) -> Tensor:
        """Return features ``(n, width)``, row ``i`` under the adapter ``choice[i]``."""
        for name in dict.fromkeys(choice):
            rows = [i for i, n in enumerate(choice) if n == name and (n, i) not in self._found]
            if rows:
                z = self.model.features(self.x[torch.tensor(rows)], name)
                self._found.update(((name, i), row) for i, row in zip(rows, z, strict=True))
        found: Tensor = self.model.exit(torch.stack([self._found[name, i] for i, name in enumerate(choice)]))
        return found

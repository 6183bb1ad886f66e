"""Ridge regression from sums: classes and single samples can be added and taken out, and the weights follow exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.erasure import Erasure
from cl_framework.ledger import Entry, Ledger


@final
class RidgeSums(nn.Module):
    """``G = sum h h^T`` over all samples and ``q_c = sum h`` over those of class ``c``, in double precision.

    ``W = (G + ridge I)^-1 Q`` is the ridge regression of one-hot labels on ``h``, whatever the order of arrival
    (Zhuang et al., "ACIL", NeurIPS 2022, Eqs. 3-9, in the form of sums). What is taken out leaves at most rounding
    behind: see `drift`.

    >>> sums = RidgeSums(2)
    >>> h, y = torch.eye(2), torch.tensor([4, 7])
    >>> sums.add(h, y)
    >>> sums.subtract(h[:1], y[:1])
    >>> sums.weights([7], ridge=1.0).T
    tensor([[0.0000, 0.5000]])

    Attributes:
        sums: ``q_c`` ``(width,)`` of each class, filed by class.
    """

    def __init__(self, width: int) -> None:
        """Start with nothing summed up."""
        super().__init__()
        self.register_buffer("gram", torch.zeros(width, width, dtype=torch.float64))
        self.sums = Ledger()
        self._solved: tuple[tuple[object, ...], Tensor] | None = None

    def __contains__(self, cls: object) -> bool:
        """Tell whether samples of a class were added."""
        return isinstance(cls, int) and Entry(cls) in self.sums

    def add(self, h: Tensor, y: Tensor) -> None:
        """Add samples ``(n, width)`` of classes ``(n,)``."""
        self._move(h.double(), y, 1)

    def subtract(self, h: Tensor, y: Tensor) -> None:
        """Take samples out again; they must have been added."""
        self._move(h.double(), y, -1)

    def weights(self, classes: Sequence[int], ridge: float) -> Tensor:
        """Return the regression's weights ``(width, classes)`` in single precision, solved once per change."""
        state = (self.sums.version, tuple(classes), ridge)
        if self._solved is None or self._solved[0] != state:
            gram = self.get_buffer("gram")
            q = torch.stack([self.sums[Entry(c)] for c in classes], 1)
            solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device, dtype=gram.dtype), q)
            self._solved = (state, solved.float())
        return self._solved[1]

    def erase(self, what: Erasure) -> None:
        """Return to the first state if everything must go; what only part of it is was taken out with `subtract`."""
        if what.everything:
            self.get_buffer("gram").zero_()
            self._solved = None

    def _move(self, h: Tensor, y: Tensor, sign: int) -> None:
        self.get_buffer("gram").add_(h.T @ h, alpha=sign)
        for c in sorted(set(y.tolist())):
            before = self.sums[Entry(c)] if c in self else h.new_zeros(h.shape[1])
            self.sums[Entry(c)] = before + sign * h[y == c].sum(0)


def drift(one: RidgeSums, other: RidgeSums) -> float:
    """Return the largest difference of two Gram matrices, relative to the largest entry: rounding, or a mistake.

    >>> drift(RidgeSums(2), RidgeSums(2))
    0.0
    """
    a, b = one.get_buffer("gram"), other.get_buffer("gram")
    scale = float(torch.maximum(a.abs().max(), b.abs().max()))
    return float((a - b).abs().max()) / scale if scale else 0.0

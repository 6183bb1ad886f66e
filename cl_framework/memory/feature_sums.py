"""Sums for linear classifiers: classes and single samples can be added and subtracted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from cl_framework.memory.erasure import Erasure
from cl_framework.memory.tensor_store import COUNT, Key, TensorStore


@final
class Sums(nn.Module):
    """``G = sum h h^T`` over all samples, ``q_c = sum h`` and ``n_c`` over those of class ``c``, in double precision.

    Subtraction leaves at most rounding error: see `drift`.

    >>> from cl_framework.functional.ridge import ridge_weights
    >>> sums, h, y = Sums(), torch.eye(2), torch.tensor([4, 7])
    >>> sums.add(h, y)
    >>> sums.subtract(h[:1], y[:1])
    >>> ridge_weights(*sums.of([7])[:2], ridge=1.0).T
    tensor([[0.0000, 0.5000]], dtype=torch.float64)

    Attributes:
        filed: ``q_c`` ``(width,)`` and ``n_c``, filed by class and by the experience that brought the samples.
    """

    def __init__(self) -> None:
        """Start empty; the first samples set the width."""
        super().__init__()
        self.register_buffer("gram", torch.empty(0, 0, dtype=torch.float64))
        self.filed = TensorStore()
        self.register_load_state_dict_pre_hook(self._resize)  # type: ignore[no-untyped-call]

    def missing(self, classes: Iterable[int], experience: str | None = None) -> list[int]:
        """Return the classes of an experience of which no sample was added."""
        return [c for c in classes if self._place(c, experience) not in self.filed]

    @property
    def version(self) -> int:
        """Increases with every change."""
        return self.filed.version

    def add(self, h: Tensor, y: Tensor, experience: str | None = None) -> None:
        """Add samples ``(n, width)`` of classes ``(n,)`` that an experience brought."""
        self._move(h.double(), y, experience, 1)

    def subtract(self, h: Tensor, y: Tensor, experience: str | None = None) -> None:
        """Subtract samples that were added."""
        self._move(h.double(), y, experience, -1)

    def of(self, classes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``G`` ``(width, width)``, and of each class ``q`` ``(width, classes)`` and ``n`` ``(classes,)``."""
        sums: dict[tuple[int | None, str], Tensor] = {}
        for entry in sorted(self.filed, key=lambda e: e.experience or ""):  # no history changes it
            key = entry.cls, entry.name
            sums[key] = sums[key] + self.filed[entry] if key in sums else self.filed[entry]
        q, n = ([sums[c, name] for c in classes] for name in ("", COUNT))
        return self.get_buffer("gram"), torch.stack(q, 1), torch.stack(n)

    def erase(self, erasure: Erasure) -> None:
        """Return to the first state if no class is left; samples of a class are subtracted with `subtract` before."""
        if all(erasure.hits(e.cls, e.experience) for e in self.filed):
            self.register_buffer("gram", self.get_buffer("gram").new_empty(0, 0))

    def _place(self, cls: int, experience: str | None) -> Key:
        old = Key(cls)  # older runs filed by class alone
        return old if old in self.filed else Key(cls, experience)

    def _move(self, h: Tensor, y: Tensor, experience: str | None, sign: int) -> None:
        outer = sign * h.T @ h
        self.register_buffer("gram", self.get_buffer("gram") + outer if len(self.filed) else outer)
        for c in sorted(set(y.tolist())):
            place = self._place(c, experience)
            for entry, value in ((place, h[y == c].sum(0)), (place._replace(name=COUNT), (y == c).sum().to(h))):
                before = self.filed[entry] if entry in self.filed else 0  # noqa: SIM401  # a tensor store has no get
                self.filed[entry] = sign * value + before

    def _resize(self, _: nn.Module, state: Mapping[str, Any], prefix: str, *__: object) -> None:
        """Take the width of the sums to be loaded."""
        if f"{prefix}gram" in state:
            self.register_buffer("gram", torch.empty_like(state[f"{prefix}gram"]))


def drift(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of the sums in two strategies, relative to the largest: rounding or a mistake.

    >>> a, b = Sums(), Sums()
    >>> for sums in (a, b): sums.add(torch.eye(2), torch.tensor([4, 7]))
    >>> drift(a, b)
    0.0
    """
    largest = 0.0
    for a, b in zip(*([m for m in side.modules() if isinstance(m, Sums)] for side in (one, other)), strict=True):
        mine, theirs = a.state_dict(), b.state_dict()
        if mine.keys() != theirs.keys():
            return float("inf")
        for name, x in mine.items():
            y = theirs[name]
            scale = max(float(x.abs().max()), float(y.abs().max())) if x.numel() and y.numel() else 0.0
            largest = max(largest, float((x - y).abs().max()) / scale if scale else 0.0)
    return largest

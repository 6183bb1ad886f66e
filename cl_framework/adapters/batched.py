"""Many adapters in one pass: each row of a chunk goes through an adapter of its own.

A pass holds as many rows as ever; what it is filled with are pairs of an adapter and a sample. Rows of one adapter
stand together in parts of a fixed size, and what adapters add is a product batched over parts, of the same shape
whatever adapters there are. Hence a feature is the same, bit for bit, in whatever company it is computed, alone too,
where the library of products rounds one shape in one way; some round a batched product by its neighbours.

Two things are saved: rows that would fill up the last chunk of every adapter, and all that comes before the first place
an adapter rewrites, which is computed once for all of them (`Front`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.adapters.base import Rewrite

PART = 2
"""Rows of one adapter that stand together. More are padded more, fewer copy more weights: for 64 rows, those of 32
adapters. A glyph_vit loses 2 % of a pass to copies at 2, and 8 % at 1."""


class BatchedRewrite(Rewrite, ABC):
    """A rewrite that can work beside others of its kind, each on a part of the batch of its own, in one product.

    All that tells two rewrites of one site and of the same shapes apart is in their state.
    """

    @abstractmethod
    def batched(self, given: Tensor, out: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Do what `forward` does in evaluation, part by part.

        Args:
            given: ``(parts, rows, width_in)``.
            out: ``(parts, rows, width_out)``.
            weights: What is in `state_dict` by name, with the parts' own in front: ``(parts, ...)``.
        """


def signature(rewrites: Sequence[nn.Module]) -> tuple[object, ...] | None:
    """Return what adapters that can be batched have in common, shapes by name; None for those that cannot.

    Args:
        rewrites: What a pass goes through, by site, as `AdapterBank.modules_of` returns it.
    """
    if not rewrites or not all(isinstance(r, BatchedRewrite) for by_site in rewrites for r in by_site.children()):
        return None
    return tuple((name, value.shape) for by_site in rewrites for name, value in by_site.state_dict().items())


@final
class StackedRewrites(Rewrite):
    """Rewrites of one site, one after the other along the batch."""

    def __init__(self, rewrites: Sequence[BatchedRewrite]) -> None:
        """Put their weights in one tensor each, with the part in front."""
        super().__init__()
        self.like, self.parts = rewrites[0], len(rewrites)
        states = [r.state_dict() for r in dict.fromkeys(rewrites)]
        index = {r: i for i, r in enumerate(dict.fromkeys(rewrites))}
        for name, value in states[0].items():
            if len(states) == 1:
                stacked = value.expand(self.parts, *value.shape)  # no copies
            else:
                stacked = torch.stack([states[index[r]][name] for r in rewrites])
            self.register_buffer(name.replace(".", "/"), stacked)

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Rewrite each part as its own adapter does."""
        weights = {name.replace("/", "."): value for name, value in self._buffers.items() if value is not None}
        rewritten = self.like.batched(self._split(given), self._split(out), weights)
        return rewritten.reshape(out.shape)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.parts, -1, rows.shape[-1])


def side_by_side(layers: Sequence[Sequence[nn.Module]]) -> tuple[nn.Module, ...]:
    """Return what a pass goes through whose parts have adapters of their own.

    Args:
        layers: For each part what it goes through in order, by site.
    """
    return tuple(
        nn.ModuleDict({key: StackedRewrites([by_site[key] for by_site in like]) for key in like[0]})
        for like in zip(*layers, strict=True)
    )


@contextmanager
def _instead(modules: Iterable[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Let ``forward(module, its forward, *inputs)`` answer for each module; hooks around it are called as ever."""
    had = {m: m.__dict__.get("forward") for m in modules}
    try:
        for m in had:
            m.forward = _bound(forward, m)
        yield
    finally:
        for m, own in had.items():
            del m.__dict__["forward"]
            if own is not None:
                m.forward = own


def _bound(forward: Callable[..., Tensor], module: nn.Module) -> Callable[..., Tensor]:
    plain = module.forward
    return lambda *given, **options: forward(module, plain, *given, **options)

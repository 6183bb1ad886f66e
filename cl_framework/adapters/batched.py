"""Many adapters in one pass: each row of a chunk goes through an adapter of its own.

A pass holds as many rows as before; they are pairs of an adapter and a sample. Rows of one adapter form parts of a
fixed size, and adapters add a product batched over parts, of the same shape for any adapters. Hence a feature does not
depend on the rest of its chunk, bit for bit, if the matrix library rounds one shape in one way; some libraries round a
batched product by its neighbours.

Two costs are saved: padding of the last chunk of every adapter, and the layers before the first rewritten site,
computed once for all adapters (`Front`).
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
"""Rows in a part. Larger parts need more padding, smaller ones copy more weights: for 64 rows, those of 32
adapters. A glyph_vit loses 2 % of a pass to copies at 2, and 8 % at 1."""


class BatchedRewrite(Rewrite, ABC):
    """A rewrite that can be batched with others of its kind, each on a part of the batch.

    Two rewrites of one site and of the same shapes differ in their state only.
    """

    @abstractmethod
    def batched(self, given: Tensor, out: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Compute `forward` in evaluation mode, part by part.

        Args:
            given: ``(parts, rows, width_in)``.
            out: ``(parts, rows, width_out)``.
            weights: Tensors of `state_dict` by name, stacked over parts: ``(parts, ...)``.
        """


def signature(rewrites: Sequence[nn.Module]) -> tuple[object, ...] | None:
    """Return the shapes by name that adapters must share to be batched; None if they cannot be.

    Args:
        rewrites: What a pass goes through, by site, as `AdapterBank.modules_of` returns it.
    """
    if not rewrites or not all(isinstance(r, BatchedRewrite) for by_site in rewrites for r in by_site.children()):
        return None
    return tuple((name, value.shape) for by_site in rewrites for name, value in by_site.state_dict().items())


@final
class StackedRewrites(Rewrite):
    """Rewrites of one site, one for each part of the batch."""

    def __init__(self, rewrites: Sequence[BatchedRewrite]) -> None:
        """Stack their weights over parts."""
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
        """Rewrite each part with its own adapter."""
        weights = {name.replace("/", "."): value for name, value in self._buffers.items() if value is not None}
        rewritten = self.like.batched(self._split(given), self._split(out), weights)
        return rewritten.reshape(out.shape)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.parts, -1, rows.shape[-1])


def side_by_side(layers: Sequence[Sequence[nn.Module]]) -> tuple[nn.Module, ...]:
    """Return the rewrites of a pass whose parts have their own adapters.

    Args:
        layers: For each part its rewrites in order, by site.
    """
    return tuple(
        nn.ModuleDict({key: StackedRewrites([by_site[key] for by_site in like]) for key in like[0]})
        for like in zip(*layers, strict=True)
    )


@contextmanager
def _instead(modules: Iterable[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Replace each module's forward by ``forward(module, its forward, *inputs)``; hooks are called as before."""
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

"""Frozen passes with many adapters at once: chunks filled with pairs of an adapter and a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.batched import PART, _instead, side_by_side
from cl_framework.backbones.base import Backbone
from cl_framework.feature_cache.store import CHUNK


def pack_chunks(wanted: Tensor, part: int = PART, size: int = CHUNK) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Fill chunks with pairs of an adapter and a sample.

    Args:
        wanted: ``(adapters, n)`` bool, the pairs; at least one.
        part: Rows that share an adapter; a part is filled up with rows of its own adapter.
        size: Rows of a chunk; the last one is filled up with its last part.

    Returns:
        For each chunk the adapter of each part ``(size / part,)``, the sample of each row ``(size,)``, and whether the
        row is a pair that was asked for, once, ``(size,)``.

    >>> [(which, rows, real)] = pack_chunks(torch.tensor([[True, True, True], [False, True, False]]), size=8)
    >>> which.tolist(), rows.tolist()
    ([0, 0, 1, 1], [0, 1, 2, 2, 1, 1, 1, 1])
    >>> real.int().tolist()
    [1, 1, 1, 0, 1, 0, 0, 0]
    """
    which, rows, real = [], [], []
    for i, mask in enumerate(wanted):
        mine = mask.nonzero()[:, 0]
        spare = -len(mine) % part
        rows.append(torch.cat([mine, mine[-1:].expand(spare)]).view(-1, part))
        real.append((torch.arange(len(mine) + spare) < len(mine)).view(-1, part))
        which.append(torch.full((len(rows[-1]),), i))
    parts = size // part
    owner, places, asked = torch.cat(which), torch.cat(rows), torch.cat(real)
    spare = -len(owner) % parts
    owner = torch.cat([owner, owner[-1:].expand(spare)]).view(-1, parts)
    places = torch.cat([places, places[-1:].expand(spare, part)]).view(-1, size)
    asked = torch.cat([asked, asked.new_zeros(spare, part)]).view(-1, size)
    return list(zip(owner, places, asked, strict=True))


@final
class Passes:
    """Frozen passes of one backbone that several adapters share."""

    def __init__(self, backbone: Backbone, bank: AdapterBank) -> None:
        """Store the parts."""
        self.backbone, self.front = backbone, Front(backbone, bank)
        self.bank = bank

    def __call__(
        self, x: Tensor, device: torch.device, adapters: Sequence[Sequence[nn.Module]], wanted: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Compute pairs of an adapter and a sample, chunk by chunk.

        Args:
            x: Inputs ``(n, ...)`` of one length.
            device: Where the backbone is.
            adapters: For each, its rewrites by site; all of one `signature`.
            wanted: ``(adapters, n)`` bool, the pairs; at least one.

        Yields:
            Adapters ``(pairs,)``, samples ``(pairs,)`` and features ``(pairs, width)``; each pair once.
        """
        chunks = pack_chunks(wanted)
        used = wanted.any(0).nonzero()[:, 0]
        recorded: Mapping[nn.Module, Tensor] = {}
        if self.backbone.divisible and len(chunks) > -(-len(used) // CHUNK):
            whole = torch.cat([used, used[-1:].expand(-len(used) % CHUNK)]).view(-1, CHUNK)
            recorded = self.front.record(x[rows.to(x.device)].to(device) for rows in whole)
        place = torch.zeros(len(x), dtype=torch.int64)
        place[used] = torch.arange(len(used))
        composed: list[int] = []
        for which, rows, real in chunks:
            if composed != which.tolist():
                composed = which.tolist()
                held = side_by_side([adapters[i] for i in composed])
            with self.bank.hooks.holding(held), self.front.given(recorded, place[rows].to(device)):
                z = self.backbone(x[rows.to(x.device)].to(device))
            yield which.repeat_interleave(PART)[real], rows[real], z[real.to(device)].float()


class _Enough(Exception):
    """Ends a pass whose rest is not needed."""


@final
class Front:
    """What a backbone computes before the first place that its adapters rewrite: the same for all of them.

    A trial pass finds these modules once. Their outputs are recorded row by row and returned in their place in a pass
    with an adapter, so that no backbone needs support for it.
    """

    def __init__(self, backbone: Backbone, bank: AdapterBank) -> None:
        """Store the parts."""
        self.backbone, self.bank = backbone, bank
        self._modules: list[nn.Module] | None = None

    def record(self, chunks: Iterable[Tensor]) -> dict[nn.Module, Tensor]:
        """Return the outputs ``(rows, ...)`` of the modules in front, for inputs that come in chunks of `CHUNK`."""
        outputs: dict[nn.Module, list[Tensor]] = {}
        for x in chunks:
            if self._modules is None:
                self._modules = self._tried(x[:5])
            if not self._modules:
                return {}
            left = set(self._modules)

            def keep(module: nn.Module, forward: Callable[..., Tensor], *given: object, **options: object) -> Tensor:
                out = forward(*given, **options)
                outputs.setdefault(module, []).append(out)
                left.discard(module)  # noqa: B023  # called within this turn
                if not left:  # noqa: B023
                    raise _Enough
                return out

            with self.bank.hooks.holding(()), _instead(self._modules, keep), suppress(_Enough):
                self.backbone(x)
        return {module: torch.cat(pieces) for module, pieces in outputs.items()}

    @contextmanager
    def given(self, recorded: Mapping[nn.Module, Tensor], rows: Tensor) -> Iterator[None]:
        """Have the modules in front return what was recorded of ``rows`` ``(n,)`` instead of computing it."""

        def look_up(module: nn.Module, *_: object, **__: object) -> Tensor:
            return recorded[module].index_select(0, rows)

        with _instead(recorded, look_up):
            yield

    def _tried(self, x: Tensor) -> list[nn.Module]:
        """Return the outermost modules with a matrix of weights that are called once, before anything is rewritten."""
        before = {s.module for s in self.bank.sites.values() if s.before}
        after = {s.module for s in self.bank.sites.values() if not s.before}
        calls: dict[nn.Module, int] = {}
        ended: dict[nn.Module, bool] = {}
        reached = False

        def begins(module: nn.Module, _: object) -> None:
            nonlocal reached
            calls[module] = calls.get(module, 0) + 1
            reached |= module in before

        def ends(module: nn.Module, _: object, out: object) -> None:
            nonlocal reached
            if not reached:
                ended[module] = isinstance(out, Tensor) and len(out) == len(x)
            reached |= module in after

        inside = [m for m in self.backbone.modules() if m is not self.backbone]
        hooks = [m.register_forward_pre_hook(begins) for m in inside]
        hooks += [m.register_forward_hook(ends) for m in inside]
        try:
            with self.bank.hooks.holding(()):
                self.backbone(x)
        finally:
            for hook in hooks:
                hook.remove()
        read = {s.reads for s in self.bank.sites.values() if s.reads is not None}
        chosen = [
            m
            for m, by_row in ended.items()
            if by_row
            and calls[m] == 1
            and any(p.ndim > 1 for p in m.parameters())
            and read.isdisjoint(set(m.modules()) - {m})  # a hook sees the input of a called module only
        ]
        within = {child for m in chosen for child in m.modules() if child is not m}
        return [m for m in chosen if m not in within]

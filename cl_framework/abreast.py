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
from contextlib import contextmanager, suppress
from typing import final

import torch
from torch import Tensor, nn

from cl_framework.adapter import AdapterBank, Rewrite
from cl_framework.backbone import Backbone
from cl_framework.features import CHUNK

PART = 2
"""Rows of one adapter that stand together. More are padded more, fewer copy more weights: for 64 rows, those of 32
adapters. A glyph_vit loses 2 % of a pass to copies at 2, and 8 % at 1."""


class Abreast(Rewrite, ABC):
    """A rewrite that can work beside others of its kind, each on a part of the batch of its own, in one product.

    All that tells two rewrites of one site and of the same shapes apart is in their state.
    """

    @abstractmethod
    def abreast(self, given: Tensor, out: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Do what `forward` does in evaluation, part by part.

        Args:
            given: ``(parts, rows, width_in)``.
            out: ``(parts, rows, width_out)``.
            weights: What is in `state_dict` by name, with the parts' own in front: ``(parts, ...)``.
        """


def signature(rewrites: Sequence[nn.Module]) -> tuple[object, ...] | None:
    """Return what adapters that go abreast have in common, shapes by name; None for those that cannot.

    Args:
        rewrites: What a pass goes through, by site, as `AdapterBank.modules_of` returns it.
    """
    if not rewrites or not all(isinstance(r, Abreast) for by_site in rewrites for r in by_site.children()):
        return None
    return tuple((name, value.shape) for by_site in rewrites for name, value in by_site.state_dict().items())


def packed(wanted: Tensor, part: int = PART, size: int = CHUNK) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Fill chunks with pairs of an adapter and a sample.

    Args:
        wanted: ``(adapters, n)`` bool, the pairs; at least one.
        part: Rows that share an adapter; a part is filled up with rows of its own adapter.
        size: Rows of a chunk; the last one is filled up with its last part.

    Returns:
        For each chunk the adapter of each part ``(size / part,)``, the sample of each row ``(size,)``, and whether the
        row is a pair that was asked for, once, ``(size,)``.

    >>> [(which, rows, real)] = packed(torch.tensor([[True, True, True], [False, True, False]]), size=8)
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
class Parts(Rewrite):
    """Rewrites of one site, one after the other along the batch."""

    def __init__(self, rewrites: Sequence[Abreast]) -> None:
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
        rewritten = self.like.abreast(self._split(given), self._split(out), weights)
        return rewritten.reshape(out.shape)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.parts, -1, rows.shape[-1])


def side_by_side(layers: Sequence[Sequence[nn.Module]]) -> tuple[nn.Module, ...]:
    """Return what a pass goes through whose parts have adapters of their own.

    Args:
        layers: For each part what it goes through in order, by site.
    """
    return tuple(
        nn.ModuleDict({key: Parts([by_site[key] for by_site in like]) for key in like[0]})
        for like in zip(*layers, strict=True)
    )


@final
class Passes:
    """Frozen passes of one backbone that several adapters share."""

    def __init__(self, backbone: Backbone, bank: AdapterBank) -> None:
        """Make no pass yet."""
        self.backbone, self.front = backbone, Front(backbone, bank)
        self.bank = bank

    def __call__(
        self, x: Tensor, device: torch.device, adapters: Sequence[Sequence[nn.Module]], wanted: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Compute pairs of an adapter and a sample, chunk by chunk.

        Args:
            x: Inputs ``(n, ...)`` of one length.
            device: Where the backbone is.
            adapters: For each, what a pass goes through, by site; all of one `signature`.
            wanted: ``(adapters, n)`` bool, the pairs; at least one.

        Yields:
            Adapters ``(pairs,)``, samples ``(pairs,)`` and features ``(pairs, width)``; each pair once.
        """
        chunks = packed(wanted)
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
            with self.bank.holding(held), self.front.given(recorded, place[rows].to(device)):
                z = self.backbone(x[rows.to(x.device)].to(device))
            yield which.repeat_interleave(PART)[real], rows[real], z[real.to(device)].float()


class _Enough(Exception):
    """Ends a pass of which the rest is not needed."""


@final
class Front:
    """What a backbone computes before the first place that its adapters rewrite: the same for all of them.

    Which modules are done by then is tried out once. Their outputs are kept, row by row, and given out again in their
    place when the pass is made for an adapter, so that no backbone needs to know of it.
    """

    def __init__(self, backbone: Backbone, bank: AdapterBank) -> None:
        """Try nothing yet."""
        self.backbone, self.bank = backbone, bank
        self._modules: list[nn.Module] | None = None

    def record(self, chunks: Iterable[Tensor]) -> dict[nn.Module, Tensor]:
        """Return the outputs ``(rows, ...)`` of the modules in front, for inputs that come in chunks of `CHUNK`."""
        found: dict[nn.Module, list[Tensor]] = {}
        for x in chunks:
            if self._modules is None:
                self._modules = self._tried(x[:5])
            if not self._modules:
                return {}
            left = set(self._modules)

            def keep(module: nn.Module, forward: Callable[..., Tensor], *given: object, **options: object) -> Tensor:
                out = forward(*given, **options)
                found.setdefault(module, []).append(out)
                left.discard(module)  # noqa: B023  # called within this turn
                if not left:  # noqa: B023
                    raise _Enough
                return out

            with self.bank.holding(()), _instead(self._modules, keep), suppress(_Enough):
                self.backbone(x)
        return {module: torch.cat(pieces) for module, pieces in found.items()}

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
            with self.bank.holding(()):
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
            and read.isdisjoint(set(m.modules()) - {m})  # what a site reads must be called to be seen
        ]
        within = {child for m in chosen for child in m.modules() if child is not m}
        return [m for m in chosen if m not in within]


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

"""The bank of adapters: named, added, activated and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from cl_framework.adapters.base import Adapter, QueryRewrite, Rewrite
from cl_framework.adapters.hooks import Hooks
from cl_framework.adapters.places import lacking
from cl_framework.backbones.base import Backbone
from cl_framework.errors import UserError
from cl_framework.memory.erasure import Erasure
from cl_framework.memory.provenance import ReadSamples
from cl_framework.streams.origins import Origin, merge_origins


@final
class AdapterBank(nn.Module):
    """All adapters of one backbone, by name, oldest first. With none in use the backbone is untouched.

    Attributes:
        active: Names in use, applied in this order.
        stack: Names applied after them in every pass: edits of the whole model, one for each request that made one;
            each can be removed or reordered by name.
        sites: The rewritten sites, by name.
        lacking: Why there is no site for its adapters, which matters to strategies that train some; else None.
        origins: Origin of each adapter.
        outlived: Requests for samples that each adapter had met and still depends on.
        reading: Samples that each was trained on, where not all of a class were read.
        asks: Whether its adapters ask for the query.
        hooks: How passes of the backbone reach them.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter) -> None:
        """Hook every site of ``backbone`` that ``adapter`` rewrites."""
        super().__init__()
        self.adapter = adapter
        with torch.random.fork_rng(devices=[]):  # building trial rewrites must not change random state
            built = {k: (s, adapter.build(s)) for k, s in backbone.sites().items()}
        self.sites = {k: s for k, (s, rewrite) in built.items() if rewrite is not None}
        self.asks = any(isinstance(rewrite, QueryRewrite) for _, rewrite in built.values())
        self.lacking = lacking(type(adapter).__name__, adapter.needs, self.sites, backbone)
        self.sites = {} if self.lacking else self.sites
        self.rewrites = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.stack: tuple[str, ...] = ()
        self.origins: dict[str, Origin] = {}
        self.outlived: dict[str, tuple[str, ...]] = {}
        self.reading = ReadSamples()
        self.hooks = Hooks(self.sites, self._in_use)
        self.register_load_state_dict_pre_hook(self._grow_to_match)  # type: ignore[no-untyped-call]

    def _in_use(self) -> tuple[nn.Module, ...]:
        return self.modules_of(self.applied)

    def modules_of(self, applied: Sequence[str]) -> tuple[nn.Module, ...]:
        """Return the rewrites of adapters to be active at once, by site.

        Raises:
            UserError: If adapters of this kind cannot.
        """
        if len(applied) > 1 and not self.adapter.several:
            raise UserError(
                f"{' and '.join(applied)} cannot be applied together: with {type(self.adapter).__name__} as "
                "configured, one would undo the other; choose an adapter that adds, such as LoRA."
            )
        return tuple(self.rewrites[name] for name in applied)

    @property
    def learned(self) -> list[str]:
        """Names of adapters from learning, oldest first: all but the edits of forget requests."""
        return [name for name in self if name not in self.stack]

    @property
    def asking(self) -> bool:
        """Whether a pass now needs a query."""
        return self.asks and bool(self.applied)

    @property
    def applied(self) -> tuple[str, ...]:
        """Names that apply to a pass now: the active ones, then the stack."""
        return (*self.active, *(n for n in self.stack if n not in self.active))

    def __iter__(self) -> Iterator[str]:
        """Iterate over names, oldest first."""
        return iter(self.rewrites)

    def __contains__(self, name: object) -> bool:
        """Tell whether ``name`` exists."""
        return isinstance(name, str) and name in self.rewrites

    def add(self, name: str, like: str | None = None) -> list[nn.Parameter]:
        """Create an adapter and return its parameters.

        Args:
            name: Its name.
            like: Adapter whose weights and origin it starts from; a new one changes nothing.

        Raises:
            ValueError: If the name is taken.
            UserError: If there is no site for one.
        """
        if self.lacking:
            raise UserError(self.lacking)
        if name in self:
            raise ValueError(f"Adapter {name!r} already exists; the bank holds {list(self)}.")
        if like is not None:
            return self.hold(name, self.rewrites[like].state_dict(), (like,))
        self._put(name, {key: self.adapter.build(site) for key, site in self.sites.items()})
        return self.params(name)

    def hold(self, name: str, weights: Mapping[str, Tensor], made_of: Iterable[str]) -> list[nn.Parameter]:
        """Create an adapter from weights derived from others, and return its parameters.

        Args:
            name: Its name.
            weights: By site and tensor, as in its state; their shapes may differ from initial ones.
            made_of: The others: its origin is the union of theirs.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self:
            raise ValueError(f"Adapter {name!r} already exists; the bank holds {list(self)}.")
        self._fit(name, weights)
        self.rewrites[name].load_state_dict(weights)
        for other in made_of:
            some, had, theirs = self.reading.of(other), self.origins.get(name, ()), self.origins.get(other, ())
            self.reading.note(name, {cell: some.get(cell) for cell in theirs}, had)
            self.origins[name] = merge_origins(had, theirs)
            self.outlived[name] = tuple(dict.fromkeys((*self.outlived.get(name, ()), *self.outlived.get(other, ()))))
        return self.params(name)

    def _put(self, name: str, built: Mapping[str, Rewrite | None]) -> None:
        self.rewrites[name] = nn.ModuleDict({k: r for k, r in built.items() if r is not None}).eval()  # until trained
        place = next((p.device for s in self.sites.values() for p in s.module.parameters()), torch.device("cpu"))
        if place.type != "cpu":
            self.rewrites[name].to(place)

    def _fit(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Create an adapter that ``state`` can be loaded into."""
        mine = self.rewrites[name].state_dict() if name in self else {}
        if name not in self or {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in mine.items()}:
            parts = {key: _under(f"{key}.", state) for key in self.sites}
            self._put(name, {key: self.adapter.restore(site, parts[key]) for key, site in self.sites.items()})

    def push(self, name: str) -> list[nn.Parameter]:
        """Create an adapter on top of the stack and return its parameters; a new one changes nothing.

        Raises:
            UserError: If new adapters of this kind change something.
        """
        if not self.adapter.neutral:
            raise UserError(
                f"{type(self.adapter).__name__} changes features before any training, so an edit with it would change "
                "answers at once; choose an adapter that does not, such as Bottleneck or LoRA."
            )
        if not self.adapter.several:
            raise UserError(
                f"{type(self.adapter).__name__} as configured is applied one at a time, so an edit cannot be added to "
                "what is applied; choose an adapter that adds, such as Bottleneck or LoRA."
            )
        params = self.add(name)
        self.stack = (*self.stack, name)
        return params

    def params(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of one adapter."""
        return list(self.rewrites[name].parameters())

    def drop(self, name: str) -> None:
        """Delete an adapter with its records."""
        if name not in self:
            raise KeyError(f"No adapter {name!r} to drop; the bank holds {list(self)}.")
        del self.rewrites[name]
        self.active = tuple(n for n in self.active if n != name)
        self.stack = tuple(n for n in self.stack if n != name)
        self.origins.pop(name, None)
        self.outlived.pop(name, None)
        self.reading.drop(name)

    def erase(self, erasure: Erasure) -> None:
        """Delete the adapters of erased experiences."""
        for name in [n for n in self if erasure.hits(experience=n)]:
            self.drop(name)

    @contextmanager
    def pristine(self) -> Iterator[None]:
        """Activate nothing, not even the stack, for the duration of the block."""
        stack, self.stack = self.stack, ()
        try:
            with self.using():
                yield
        finally:
            self.stack = stack

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """Activate ``names`` for the duration of the block."""
        before, self.active = self.active, names
        try:
            yield
        finally:
            self.active = before

    def train(self, mode: bool = True) -> AdapterBank:
        """Put only what is being trained into training mode: a finished adapter has no dropout."""
        super().train(False)
        self.training = mode
        for rewrites in self.rewrites.values():
            rewrites.train(mode and any(p.requires_grad for p in rewrites.parameters()))
        return self

    def _grow_to_match(self, _: nn.Module, state: Mapping[str, Any], prefix: str, *__: object) -> None:
        """Create the adapters of the weights to be loaded, in their order."""
        start = f"{prefix}rewrites."
        names = dict.fromkeys(k[len(start) :].split(".")[0] for k in state if k.startswith(start))
        for name in [n for n in self if n not in names]:
            self.drop(name)
        for name in names:
            self._fit(name, _under(f"{start}{name}.", state))


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries below ``prefix``, by the rest of their names."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}

"""Named, small, trainable rewrites of a frozen backbone: add, use, drop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from cl_framework.backbone import Backbone, Site
from cl_framework.erasure import Erasure
from cl_framework.errors import UserError
from cl_framework.origin import Origin


class Rewrite(nn.Module, ABC):
    """What an adapter does at one site."""

    @abstractmethod
    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Return the site's new output from what the site reads and its old output."""


class Adapter(ABC):
    """How to build one rewrite per site."""

    @abstractmethod
    def build(self, site: Site) -> Rewrite | None:
        """Build the rewrite for ``site``, or None to leave it alone; at birth it changes nothing."""


@final
class AdapterBank(nn.Module):
    """All adapters of one backbone, by name, oldest first. With none in use the backbone is untouched.

    Attributes:
        active: Names in use, applied in this order.
        stack: Names applied after them whatever is in use: edits of the whole model, one for each request that made
            one, so that each can be taken back, and the order changed, by its name.
        sites: The places that are rewritten, by name.
        origins: What went into each adapter.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter) -> None:
        """Hook every site of ``backbone`` that ``adapter`` rewrites."""
        super().__init__()
        self.adapter = adapter
        with torch.random.fork_rng(devices=[]):  # asking which sites are rewritten must not move the dice
            self.sites = {k: s for k, s in backbone.sites().items() if adapter.build(s) is not None}
        if not self.sites:
            roles = sorted({s.role for s in backbone.sites().values()})
            raise UserError(
                f"{type(adapter).__name__} finds no place in {backbone.name}, which has {', '.join(roles) or 'none'}; "
                "choose other roles or another adapter."
            )
        self.rewrites = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.stack: tuple[str, ...] = ()
        self.origins: dict[str, Origin] = {}
        self._given: dict[str, Tensor] = {}
        self._attach()
        self.register_load_state_dict_pre_hook(self._grow_to_match)  # type: ignore[no-untyped-call]

    def _attach(self) -> None:
        by_module: dict[nn.Module, dict[str, Site]] = {}
        for key, site in self.sites.items():
            by_module.setdefault(site.module, {})[key] = site
            if site.reads is not None:
                site.reads.register_forward_pre_hook(self._keeper(key))
        for module, sites in by_module.items():
            module.register_forward_hook(self._rewriter(sites))

    def _keeper(self, key: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if self.applied:
                self._given[key] = given[0]

        return keep

    def _rewriter(self, sites: Mapping[str, Site]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def rewrite(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if not (applied := self.applied):
                return out
            parts: list[Tensor] = []
            for key, site in sites.items():
                seen = given[0] if site.reads is None else self._given.pop(key)
                part = out if site.columns is None else out[..., site.columns]
                for name in applied:
                    part = self.rewrites[name][key](seen, part)  # type: ignore[index]
                if site.columns is None:
                    return part
                parts.append(part)
            return _put_back(out, parts, [s.columns for s in sites.values()])

        return rewrite

    @property
    def applied(self) -> tuple[str, ...]:
        """Names that a pass goes through now: those in use, then the stack."""
        return (*self.active, *(n for n in self.stack if n not in self.active))

    def __iter__(self) -> Iterator[str]:
        """Iterate over names, oldest first."""
        return iter(self.rewrites)

    def __contains__(self, name: object) -> bool:
        """Tell whether ``name`` exists."""
        return isinstance(name, str) and name in self.rewrites

    def add(self, name: str) -> list[nn.Parameter]:
        """Create an adapter and return its parameters.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self:
            raise ValueError(f"Adapter {name!r} already exists; the bank holds {list(self)}.")
        built = {key: self.adapter.build(site) for key, site in self.sites.items()}
        self.rewrites[name] = nn.ModuleDict({k: r for k, r in built.items() if r is not None})
        anchor = next(iter(self.sites.values())).module
        place = next(iter(anchor.parameters()), torch.empty(0)).device
        return self.params(name) if place.type == "cpu" else list(self.rewrites[name].to(place).parameters())

    def push(self, name: str) -> list[nn.Parameter]:
        """Create an adapter on top of the stack and return its parameters; at birth it changes nothing."""
        params = self.add(name)
        self.stack = (*self.stack, name)
        return params

    def params(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of one adapter."""
        return list(self.rewrites[name].parameters())

    def drop(self, name: str) -> None:
        """Delete an adapter; what it knew leaves with it."""
        if name not in self:
            raise KeyError(f"No adapter {name!r} to drop; the bank holds {list(self)}.")
        del self.rewrites[name]
        self.active = tuple(n for n in self.active if n != name)
        self.stack = tuple(n for n in self.stack if n != name)
        self.origins.pop(name, None)

    def erase(self, what: Erasure) -> None:
        """Drop the adapters that the erased experiences had to themselves."""
        for name in [n for n in self if what.hits(experience=n)]:
            self.drop(name)

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """Put ``names`` in use for the duration of the block."""
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
        """Before weights arrive, hold exactly the adapters they belong to, in their order."""
        start = f"{prefix}rewrites."
        names = dict.fromkeys(k[len(start) :].split(".")[0] for k in state if k.startswith(start))
        for name in [n for n in self if n not in names]:
            self.drop(name)
        for name in names:
            if name not in self:
                self.add(name)


def _put_back(out: Tensor, parts: list[Tensor], columns: list[slice | None]) -> Tensor:
    """Return ``out`` with some of its columns replaced."""
    pieces, at = [], 0
    for part, where in zip(parts, columns, strict=True):
        assert where is not None
        pieces += [out[..., at : where.start], part]
        at = where.stop
    return torch.cat([*pieces, out[..., at:]], -1)

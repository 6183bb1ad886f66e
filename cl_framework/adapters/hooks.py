"""Hooks on a backbone's modules: what a pass reads and returns at each site goes through the adapters in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import final

from torch import Tensor, nn

from cl_framework.adapters.base import QueryRewrite
from cl_framework.backbones.base import Site, put_back


@final
class Hooks:
    """Everything that is hooked into one backbone for a bank of adapters. With none in use nothing changes.

    Attributes:
        query: The query of the pass under way, ``(n, width)``.
    """

    def __init__(self, sites: Mapping[str, Site], in_use: Callable[[], tuple[nn.Module, ...]]) -> None:
        """Hook every site.

        Args:
            sites: The places that are rewritten, by name.
            in_use: Returns the adapters in use, in order, each with its rewrites by site.
        """
        self._in_use = in_use
        self.query: Tensor | None = None
        self._given: dict[str, Tensor] = {}
        self._held: tuple[nn.Module, ...] | None = None
        self._attach(sites)

    def asked(self, query: Tensor | None) -> AbstractContextManager[None]:
        """Hold fast what is in use, for one pass, with the query ready for rewrites that ask for it."""
        return self.holding(self._at_work(), query)

    def again(self) -> Callable[[], AbstractContextManager[None]]:
        """Return how to come back to the pass under way later, when a part of it is to be computed once more."""
        return partial(self.holding, self._at_work(), self.query)

    @contextmanager
    def holding(self, held: tuple[nn.Module, ...], query: Tensor | None = None) -> Iterator[None]:
        """Pass through ``held``, rewrites by site, whatever is in use, for the duration of the block."""
        before = self._held, self.query
        self._held, self.query = held, query
        try:
            yield
        finally:
            self._held, self.query = before

    def _attach(self, sites: Mapping[str, Site]) -> None:
        given: dict[nn.Module, dict[str, Site]] = {}
        returned: dict[nn.Module, dict[str, Site]] = {}
        for key, site in sites.items():
            (given if site.before else returned).setdefault(site.module, {})[key] = site
            if site.reads is not None:
                site.reads.register_forward_pre_hook(self._keeper(key))
        for module, here in given.items():
            module.register_forward_pre_hook(self._rewriter_of_input(here))
        for module, here in returned.items():
            module.register_forward_hook(self._rewriter(here))

    def _keeper(self, key: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if self._at_work():
                self._given[key] = given[0]

        return keep

    def _rewriter_of_input(
        self, sites: Mapping[str, Site]
    ) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def rewrite(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            stream, *others = given
            for key in sites:
                stream = self._rewritten(key, stream, stream)
            return (stream, *others)

        return rewrite

    def _rewriter(self, sites: Mapping[str, Site]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def rewrite(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if not self._at_work():
                return out
            seen = {k: given[0] if s.reads is None else self._given.pop(k) for k, s in sites.items()}
            columns = [(k, s.columns) for k, s in sites.items() if s.columns is not None]
            if columns:
                out = put_back(out, [(at, self._rewritten(k, seen[k], out[..., at])) for k, at in columns])
            for key, site in sites.items():
                out = self._rewritten(key, seen[key], out) if site.columns is None else out
            return out

        return rewrite

    def _rewritten(self, key: str, seen: Tensor, out: Tensor) -> Tensor:
        """Pass ``out`` through every adapter's rewrite at one site."""
        for rewrites in self._at_work():
            rewrite = rewrites[key]  # type: ignore[index]
            out = rewrite(seen, out, self.query) if isinstance(rewrite, QueryRewrite) else rewrite(seen, out)
        return out

    def _at_work(self) -> tuple[nn.Module, ...]:
        """Return the adapters of a pass, in order.

        Those held fast by `asked` come without their names: a compiled pass that knew a name would be compiled anew for
        the next one, while adapters of one shape are but other tensors.
        """
        return self._in_use() if self._held is None else self._held

"""Interfaces of adapters: small trainable rewrites of a frozen backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from cl_framework.backbones.base import Role, Site
from cl_framework.settings.recorded import Recorded


class Rewrite(nn.Module, ABC):
    """The part of an adapter at one site."""

    @abstractmethod
    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Return the site's new output from its input and its old output."""


class QueryRewrite(Rewrite, ABC):
    """A rewrite that also sees the query: the pristine backbone's feature of the same samples."""

    @abstractmethod
    def forward(self, given: Tensor, out: Tensor, query: Tensor | None = None) -> Tensor:
        """Return the site's new output; ``query`` ``(n, width)`` is row-aligned, without gradients, always there."""


class Adapter(Recorded, ABC):
    """How to build one rewrite per site.

    Attributes:
        needs: Roles of which at least one must exist.
        neutral: Whether a new adapter changes nothing. One that changes something cannot be on the stack.
        coupled: Whether its effect on a sample depends on the rest of the batch. Such features are never stored.
        together: How many samples pass at once at test time, in the order in which their classes came, where a
            published protocol says so; None leaves both to the model. Only for an adapter that is coupled.
        linear: Whether its change is linear in all its parameters: then they can be summed and averaged.
        several: Whether several may be active at once. Not if one replaces the output of another at a site.
    """

    needs: ClassVar[frozenset[Role]] = frozenset()
    neutral: bool = True
    coupled: bool = False
    together: int | None = None
    linear: bool = False
    several: bool = True

    @abstractmethod
    def build(self, site: Site) -> Rewrite | None:
        """Build the rewrite for ``site``, or None for no rewrite; a new neutral one changes nothing."""

    def restore(self, site: Site, state: Mapping[str, Tensor]) -> Rewrite | None:
        """Build a rewrite that ``state`` can be loaded into; a merge may have changed its shapes."""
        return self.build(site)

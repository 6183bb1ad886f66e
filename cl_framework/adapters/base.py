"""Named, small, trainable rewrites of a frozen backbone: add, use, drop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from cl_framework.backbones.base import Role, Site
from cl_framework.settings.recorded import Recorded


class Rewrite(nn.Module, ABC):
    """What an adapter does at one site."""

    @abstractmethod
    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Return the site's new output from what the site reads and its old output."""


class Asking(Rewrite, ABC):
    """A rewrite that also sees the query: the pristine backbone's feature of the same samples."""

    @abstractmethod
    def forward(self, given: Tensor, out: Tensor, query: Tensor | None = None) -> Tensor:
        """Return the site's new output; ``query`` ``(n, width)`` is row-aligned, without gradients, always there."""


class Adapter(Recorded, ABC):
    """How to build one rewrite per site.

    Attributes:
        needs: Roles without any of which it would do something else than it says.
        neutral: Whether an adapter changes nothing at birth. One that does change something cannot lie on the stack.
        coupled: Whether what it does to a sample depends on the rest of the batch. Such features are never stored.
        together: How many samples pass at once at test time, in the order in which their classes came, where a
            published protocol says so; None leaves both to the model. Only for an adapter that is coupled.
        linear: Whether what it adds is linear in its parameters, all of them: then they can be summed and averaged.
        several: Whether several may be in use at once. Not where one puts something of its own in the place of what
            another made of a site.
    """

    needs: ClassVar[frozenset[Role]] = frozenset()
    neutral: bool = True
    coupled: bool = False
    together: int | None = None
    linear: bool = False
    several: bool = True

    @abstractmethod
    def build(self, site: Site) -> Rewrite | None:
        """Build the rewrite for ``site``, or None to leave it alone; at birth it changes nothing if it is neutral."""

    def restore(self, site: Site, state: Mapping[str, Tensor]) -> Rewrite | None:
        """Build a rewrite that ``state`` can be loaded into; a merge may have given it shapes unlike those of birth."""
        return self.build(site)

"""A sliding window of classes: as many are forgotten as arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, final

from cl_framework.errors import UserError
from cl_framework.streams import Scenario, Step
from scenarios.derived import Derived
from scenarios.requests import Request, with_requests

_T = TypeVar("_T")


@final
class SlidingWindow(Derived, Scenario):
    """Forgets the oldest classes as new ones come; choose it for streams with a limit on classes.

    Forgets the oldest classes as new ones come, so that no more than a window of them stays.

    The stream of BID-LoRA (arXiv 2604.12686: 50 classes, then +10 and -10, five times), but forgotten classes are not
    named again in later requests: their data may be deleted. Where classes come again, each counts once for every
    experience that brings it, and its oldest cell is forgotten first.

    Args:
        stream: A scenario of experiences only, such as a base of 50 classes and increments of 10.
        window: How many classes stay; those of the first experience if None.
        forget_first: Make room before an experience comes instead of after it.

    Raises:
        UserError: On first use, if an experience brings more than the window holds.
    """

    def __init__(self, stream: Scenario, window: int | None = None, forget_first: bool = False) -> None:
        """Keep the settings."""
        self.stream, self.window, self.forget_first = stream, window, forget_first

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, and a request wherever the window would be exceeded."""
        steps = self.lessons()
        gone = leaving([[(s.event.name, c) for c in s.event.classes] for s in steps], self.window)
        requests = [Request(i + 1 - self.forget_first, cells=[[*c] for c in old]) for i, old in enumerate(gone) if old]
        return iter(with_requests(steps, requests, self.class_names))


def leaving(arriving: Sequence[Sequence[_T]], window: int | None = None) -> list[list[_T]]:
    """Return the classes to forget with each experience: the oldest ones beyond the window.

    >>> leaving([(0, 1, 2), (3, 4), (5,)])
    [[], [0, 1], [2]]

    Raises:
        UserError: If an experience brings more than the window holds.
    """
    size = len(arriving[0]) if window is None else window
    alive: list[_T] = []
    gone = []
    for new in arriving:
        if len(new) > size:
            raise UserError(f"An experience brings {len(new)} classes into a window of {size}; widen the window.")
        excess = max(0, len(alive) + len(new) - size)
        gone.append(alive[:excess])
        alive = [*alive[excess:], *new]
    return gone

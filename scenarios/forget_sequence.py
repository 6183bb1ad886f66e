"""Forget-only sequences: learn everything first, then forget a few classes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from cl_framework.errors import UserError
from cl_framework.streams import Scenario, Step
from scenarios.derived import Derived
from scenarios.requests import Request, with_requests


@final
class ForgetSequence(Derived, Scenario):
    """Learns everything, then forgets the last classes in steps; choose it for the GS-LoRA protocol.

    The protocol of GS-LoRA (Zhao et al., CVPR 2024): request after request, from the end of the order.

    Of 100 classes, 4 x 20 forgets the last 20 of the order of arrival, then the 20 before them, and leaves 20. In the
    paper a pre-trained model knows all classes from the start: make the stream `Pretrained`. A class that comes again
    has the place of its first arrival, and is forgotten altogether.

    Args:
        stream: A scenario of experiences only.
        times: How many requests.
        classes: How many classes each of them forgets.

    Raises:
        UserError: If there are not that many classes; on first use, where the data tell.
    """

    def __init__(self, stream: Scenario, times: int = 4, classes: int = 20) -> None:
        """Keep the settings."""
        self.stream, self.times, self.classes = stream, times, classes
        if min(times, classes) < 1:
            raise UserError(f"ForgetSequence takes times and classes of 1 or more; found {times} and {classes}.")

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, then the requests."""
        steps = self.lessons()
        order = list(dict.fromkeys(c for s in steps for c in s.event.classes))  # a class may come again
        requests = [Request(len(steps), classes=[*gone]) for gone in from_the_end(order, self.times, self.classes)]
        return iter(with_requests(steps, requests, self.class_names))


def from_the_end(order: Sequence[int], times: int, classes: int) -> list[list[int]]:
    """Return what each request takes: slices of ``order``, the last one first.

    >>> from_the_end([4, 0, 3, 1, 2], times=2, classes=2)
    [[1, 2], [0, 3]]

    Raises:
        UserError: If there are not that many classes.
    """
    if times * classes > (n := len(order)):
        raise UserError(f"{times} x {classes} classes cannot be forgotten of {n}; lower times or classes.")
    ends = [len(order) - t * classes for t in range(times)]
    return [list(order[end - classes : end]) for end in ends]

"""Forget requests at random places of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, final

import torch

from cl_framework.errors import UserError
from cl_framework.streams import Scenario, Step
from scenarios.derived import Derived
from scenarios.requests import Request, with_requests


@final
class RandomInsertion(Derived, Scenario):
    """Forgets some experiences, each at a random later place; choose it for the PALL protocol.

    The protocol of PALL (Özdenizci et al., ICLR 2025): some experiences are forgotten, each at a random later place.

    Args:
        stream: A scenario of experiences only.
        requests: How many requests.
        what: Whether each takes a whole experience or one class of an experience. A class that other experiences bring
            too stays alive.
        seed: Seed of what is forgotten, and when.

    Raises:
        UserError: If there is less than that to forget; on first use, where the data tell.
    """

    def __init__(
        self, stream: Scenario, requests: int = 3, what: Literal["experience", "class"] = "experience", seed: int = 0
    ) -> None:
        """Keep the settings."""
        self.stream, self.requests, self.what, self.seed = stream, requests, what, seed
        if requests < 1:
            raise UserError(f"RandomInsertion takes requests of 1 or more; found {requests}.")

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, and each request at its random place."""
        steps = self.lessons()
        sizes = [1 if self.what == "experience" else len(s.event.classes) for s in steps]
        requests = []
        for owner, item, after in insertions(sizes, self.requests, self.seed):
            event = steps[owner].event
            whole = self.what == "experience"
            part = {"experiences": [event.name]} if whole else {"cells": [[event.name, event.classes[item]]]}
            requests.append(Request(after, **part))
        return iter(with_requests(steps, requests, self.class_names))


def insertions(sizes: Sequence[int], requests: int, seed: int) -> list[tuple[int, int, int]]:
    """Draw what is forgotten, and when: items without replacement, places uniformly among those after the item.

    Args:
        sizes: How many items each experience has.
        requests: How many to draw.
        seed: Seed of the draw.

    Returns:
        The experience, the item in it, and the number of experiences learned before the request.

    Raises:
        UserError: If there are fewer items.
    """
    items = [(owner, item) for owner, size in enumerate(sizes) for item in range(size)]
    if requests > len(items):
        raise UserError(f"There are {len(items)} things to forget and {requests} requests; lower requests.")
    g = torch.Generator().manual_seed(seed)
    drawn = [items[i] for i in torch.randperm(len(items), generator=g)[:requests].tolist()]
    return [(owner, item, int(torch.randint(owner + 1, len(sizes) + 1, (), generator=g))) for owner, item in drawn]

"""A request to forget some samples after every experience."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.streams import Samples, Scenario, Step, seed_for
from scenarios.derived import Derived
from scenarios.requests import Request, with_requests


@final
class SampleRequests(Derived, Scenario):
    """Forgets a share of the samples of each experience; choose it for requests by single samples.

    Forgets a share of the training samples of every experience, right after it.

    Args:
        stream: A scenario of experiences only.
        share: Share of an experience's samples; at least one is forgotten.
        pick: ``random``, or ``atypical`` for those farthest from the mean picture of their class. The latter
            approximates the samples that a model memorises most, without a model.
        seed: Seed of what is picked at random.

    Raises:
        UserError: If the share is not between 0 and 1.
    """

    def __init__(
        self, stream: Scenario, share: float = 0.01, pick: Literal["random", "atypical"] = "random", seed: int = 0
    ) -> None:
        """Keep the settings."""
        self.stream, self.share, self.pick, self.seed = stream, share, pick, seed
        if not 0 < share < 1:
            raise UserError(f"share is a share of an experience's samples, between 0 and 1; found {share}.")

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, each followed by a request."""
        return iter(with_requests(self.lessons(), self.requests, self.class_names))

    @cached_property
    def requests(self) -> list[Request]:
        """The samples to forget after each experience; computed once, because atypical samples need all to be read."""
        return [Request(i, samples=[*self._picked(s)]) for i, s in enumerate(self.lessons(), 1)]

    def _picked(self, step: Step) -> list[int]:
        samples = step.event.reference
        count = max(1, round(self.share * len(samples)))
        if self.pick == "random":
            g = torch.Generator().manual_seed(seed_for(step.event.name, self.seed))
            chosen = torch.randperm(len(samples), generator=g)[:count]
        else:
            chosen = class_mean_distances(samples).argsort(descending=True, stable=True)[:count]
        ids: list[int] = samples.ids[chosen].sort().values.tolist()
        return ids


def class_mean_distances(samples: Samples, batch: int = 256) -> Tensor:
    """Return each sample's Euclidean distance ``(n,)`` to the mean input of its class.

    Args:
        samples: Samples with the test transform.
        batch: How many to read at a time.

    Raises:
        UserError: If the inputs are no pictures.
    """
    pieces = torch.split(torch.arange(len(samples)), batch)
    samples = samples.unkept()  # later calls read what was forgotten by then
    if not samples[[0]].x.is_floating_point():
        raise UserError("Only pictures have a mean that samples can be far from; set `pick: random`.")
    owner = torch.unique(samples.labels, return_inverse=True)[1]
    counts = torch.bincount(owner)
    sums: Tensor | None = None
    for rows in pieces:
        x = samples[rows.tolist()].x.flatten(1).double()
        sums = x.new_zeros(len(counts), x.shape[1]) if sums is None else sums
        sums.index_add_(0, owner[rows], x)
    assert sums is not None
    means = sums / counts[:, None]
    return torch.cat([(samples[r.tolist()].x.flatten(1).double() - means[owner[r]]).norm(dim=1) for r in pieces])

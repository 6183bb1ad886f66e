"""Samples of a plan that are not trained on: their loss tells when training has done enough."""

from __future__ import annotations

import torch

from cl_framework.streams.samples import Samples


def held_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split samples so that every class of at least two gives its share, and keeps one; no dice of others are moved.

    Args:
        samples: To split.
        share: To hold out, from 0 to below 1.
        seed: Decides which.

    Returns:
        What to train on, and what to hold out, each in the order of ``samples``.
    """
    dice, held = torch.Generator().manual_seed(seed), torch.zeros(len(samples), dtype=torch.bool)
    for c in sorted(set(samples.labels.tolist())):
        rows = (samples.labels == c).nonzero()[:, 0]
        most = len(rows) - 1
        count = min(max(round(share * len(rows)), 1), most)
        held[rows[torch.randperm(len(rows), generator=dice)[:count]]] = True
    return samples.where(~held), samples.where(held)

"""Loaders of a plan: what is trained on, and what is held out, whose loss tells when training has done enough."""

from __future__ import annotations

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from cl_framework.errors import UserError
from cl_framework.streams.samples import Batch, Samples


def loaders(
    samples: Samples, batch_size: int, share: float, seed: int
) -> tuple[DataLoader[Batch], DataLoader[Batch] | None]:
    """Read samples to train on and, where a share is held out, those, always in one order; else None."""
    if not share:
        return loader(samples, batch_size), None
    train, held = held_out(samples, share, seed)
    if not len(held):
        raise UserError("No class has two samples, so none can be held out; set data.validation to 0.")
    in_order = BatchSampler(SequentialSampler(held), batch_size, drop_last=False)
    return loader(train, batch_size), DataLoader(held, sampler=in_order, batch_size=None)


def loader(samples: Samples, batch_size: int) -> DataLoader[Batch]:
    """Read whole batches at once, in an order drawn anew each epoch."""
    return DataLoader(
        samples, sampler=BatchSampler(RandomSampler(samples), batch_size, drop_last=False), batch_size=None
    )


def held_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split samples so that every class of at least two gives its share, and keeps one, without global random numbers.

    Args:
        samples: To split.
        share: To hold out, from 0 to below 1.
        seed: Decides which.

    Returns:
        What to train on, and what to hold out, each in the order of ``samples``.
    """
    rng, held = torch.Generator().manual_seed(seed), torch.zeros(len(samples), dtype=torch.bool)
    for c in sorted(set(samples.labels.tolist())):
        rows = (samples.labels == c).nonzero()[:, 0]
        most = len(rows) - 1
        count = min(max(round(share * len(rows)), 1), most)
        held[rows[torch.randperm(len(rows), generator=rng)[:count]]] = True
    return samples.where(~held), samples.where(held)

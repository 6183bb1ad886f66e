"""Unreadable samples: all are named at once, before anything is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cl_framework.errors import UserError
from cl_framework.streams import Watch, unreadable_error
from scenarios.data.source import Pictures, Sentences, Source
from scenarios.pictures.decode import glance, in_parallel

_AT_ONCE = 512
"""Files between two reports of progress."""


def readable(source: Source, watch: Watch) -> tuple[Source, list[str]]:
    """Read the header of every picture file; return the source without unreadable ones, and the reasons.

    Raises:
        UserError: If a class, or the test set, has none that can be read.
    """
    faults_by_part: dict[str, list[str | None]] = {}
    parts = {"train": source.train, "test": source.test}
    files = {k: list(p.images) for k, p in parts.items() if isinstance(p, Pictures) and isinstance(p.images, tuple)}
    total, done = sum(map(len, files.values())), 0
    for name, paths in files.items():
        faults_by_part[name] = []
        for start in range(0, len(paths), _AT_ONCE):
            faults_by_part[name] += in_parallel(_fault, paths[start : start + _AT_ONCE])
            watch(min(done := done + _AT_ONCE, total), total)
    faults = [fault for column in faults_by_part.values() for fault in column if fault]
    if not faults:
        return source, []
    train, test = (_without(part, faults_by_part[k]) if k in faults_by_part else part for k, part in parts.items())
    try:
        return replace(source, train=train, test=test), faults
    except UserError as error:
        raise unreadable_error(faults, str(error)) from error


def succeeds(faults: list[str], make: Callable[[], None]) -> bool:
    """Do something for one sample; on an error note it and return False."""
    try:
        make()
    except UserError as error:
        faults.append(str(error))
        return False
    return True


def _fault(file: Path) -> str | None:
    try:
        glance(file)
    except UserError as error:
        return str(error)
    return None


def _without(part: Pictures | Sentences, faults: Sequence[str | None]) -> Pictures | Sentences:
    """Return the pictures without a fault, numbered as if the others did not exist."""
    assert isinstance(part, Pictures)
    left = part.take(torch.tensor([i for i, fault in enumerate(faults) if fault is None], dtype=torch.int64))
    assert isinstance(left, Pictures)
    return Pictures(left.split, left.images, left.labels, columns=left.columns)

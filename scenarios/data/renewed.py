"""Update of a run's sample list from today's data: samples that were never met are taken as they are now."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import torch

from cl_framework.streams import Inventory, sample_list
from scenarios.data.relisted import Located, Reread, digests_of, forgets, place_of
from scenarios.data.source import Pictures


def renewed(
    listed: sample_list.ListedSource, key: bytes | None, met: Collection[str]
) -> tuple[sample_list.ListedSource, Inventory]:
    """Return the list without missing samples that were never met, and the differences.

    Args:
        listed: The list.
        key: The run's key, by which forgotten samples are known.
        met: Names of the experiences that the run has met.
    """
    renewed_list, data = deepcopy(listed), Located(listed)
    known = {i for i, name in enumerate(listed.experiences) if name in met}
    lost, left_out, changed = list[str](), list[str](), list[str]()
    for rows in (renewed_list.train, renewed_list.test):
        rows.experiences = rows.experiences or [-1] * len(rows.ids)
        now = _digests(listed, rows, data, key, known)
        gone = {i for i, digest in now.items() if not digest}
        here = [i for i in range(len(rows.ids)) if i not in gone or rows.experiences[i] in known]
        lost += [rows.places[i] for i in sorted(gone & set(here))]
        left_out += [rows.places[i] for i in sorted(gone - set(here))]
        for i, digest in now.items():
            if digest and rows.experiences[i] not in known and digest != rows.digests[i]:
                changed.append(rows.places[i])
                rows.digests[i] = digest
                rows.content = sha256(f"{rows.content} {rows.ids[i]} {digest}".encode()).hexdigest()
        _keep(rows, here)
    left = {label for rows in (renewed_list.train,) for label in rows.labels}
    renewed_list.groups = [[c for c in group if c in left] for group in renewed_list.groups]
    return renewed_list, Inventory(_new(listed, data, key), lost, left_out, changed)


def _digests(
    listed: sample_list.ListedSource,
    rows: sample_list.SplitRows,
    data: Located,
    key: bytes | None,
    known: Collection[int],
) -> dict[int, str]:
    """Return the hash of each sample that is not forgotten, nothing for those that are gone; met ones are not read."""
    asked = [i for i in range(len(rows.ids)) if i not in rows.gone]
    if not listed.files:
        mask = Reread("pictures", rows, data, key).present(torch.tensor(asked, dtype=torch.int64)).tolist()
        return {i: rows.digests[i] if here else "" for i, here in zip(asked, mask, strict=True)}
    files = {i: Path(listed.root) / rows.places[i] for i in asked}
    exists = {i: file.is_file() for i, file in files.items()}
    fresh = [i for i in asked if exists[i] and rows.experiences[i] not in known]
    whole = Pictures(rows.split, [files[i] for i in fresh], [0] * len(fresh))
    read = dict(zip(fresh, digests_of(whole, range(len(fresh))), strict=True))
    return {i: read.get(i, rows.digests[i]) if exists[i] else "" for i in asked}


def _new(listed: sample_list.ListedSource, data: Located, key: bytes | None) -> list[str]:
    """Return the places of files that the list does not know; of tables and arrays none is told."""
    source = data.source
    if source is None or not listed.files:
        return []
    resolved = data.resolved(listed, key) if key and forgets(listed) else listed
    known = {*resolved.train.places, *resolved.test.places}
    left_out = {name for i, name in enumerate(resolved.class_names) if not any(i in group for group in listed.groups)}
    return sorted(
        place
        for part in (source.train, source.test)
        for file, label in zip(part.images, part.labels.tolist(), strict=True)  # type: ignore[union-attr]
        if (place := place_of(Path(file), listed.root)) not in known and source.class_names[label] not in left_out
    )


def _keep(rows: sample_list.SplitRows, here: list[int]) -> None:
    """Leave only the rows ``here``."""
    rows.gone = {new for new, old in enumerate(here) if old in rows.gone}
    for name in ("ids", "labels", "places", "digests", "experiences", "columns"):
        column = getattr(rows, name)
        setattr(rows, name, [column[i] for i in here] if column else column)

"""A source by a run's list: rows keep their ids after data were added or deleted.

`list_samples` lists a source; `relisted` makes the data of a stream from the list. Labels, ids and names come from
the list alone. Files are looked for where the list says, tables and arrays are opened when they are first read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.storage import file_hash
from cl_framework.streams import KEYED, Watch, sample_list
from scenarios.data.open import anchored, open_source, paths_in
from scenarios.data.source import NOWHERE, LabelledSamples, Pictures, Sentences, Source, absent
from scenarios.pictures.decode import in_parallel
from scenarios.pictures.transforms import CPU

_AT_ONCE = 512
"""Files between two reports of progress."""
Part: TypeAlias = Pictures | Sentences


@final
@dataclass(frozen=True, eq=False, slots=True)
class StreamParts:
    """The data of a stream: training samples, test samples, and names of classes."""

    name: str
    kind: Literal["pictures", "sentences"]
    train: LabelledSamples
    test: LabelledSamples
    class_names: tuple[str, ...]


def list_samples(source: Source, spec: str, groups: Sequence[Sequence[int]], watch: Watch) -> sample_list.ListedSource:
    """List every sample of the classes of a stream; files are read for their hashes.

    Args:
        source: The data.
        spec: What opened them.
        groups: The classes of each experience.
        watch: Told how many files are read.
    """
    tables = paths_in(spec)
    spec, root, name = anchored(spec)
    parts = source.train, source.test
    files = all(isinstance(p, Pictures) and not isinstance(p.images, Tensor) for p in parts)
    if files and not root:
        root = os.path.commonpath([str(Path(f).absolute()) for p in parts for f in p.images])  # type: ignore[union-attr]
    total, done, rows = sum(map(len, parts)), 0, []
    for part in parts:
        digests: list[str] = []
        for start in range(0, len(part), _AT_ONCE):
            digests += digests_of(part, range(start, min(start + _AT_ONCE, len(part))))
            watch(min(done := done + _AT_ONCE, total), total)
        rows.append(_rows(part, digests, root, tables, {c for group in groups for c in group}))
    return sample_list.ListedSource(
        name=name,
        spec=spec,
        root=root,
        kind=source.train.kind,
        files=files,
        class_names=list(source.class_names),
        groups=[list(group) for group in groups],
        fingerprint=source.fingerprint,
        train=rows[0],
        test=rows[1],
    )


def relisted(listed: sample_list.ListedSource, key: bytes | None = None, opened: Source | None = None) -> StreamParts:
    """Return the samples of a list. Forgotten samples are found where the data still hold them.

    Args:
        listed: The list; its ``root`` says where the data are now.
        key: The run's key, by which forgotten samples are found.
        opened: The source, if it is open already.
    """
    data = Located(listed, opened)
    resolved = data.resolved(listed, key) if key and forgets(listed) else listed
    kind: Literal["pictures", "sentences"] = "pictures" if listed.kind == "pictures" else "sentences"

    def part(rows: sample_list.SplitRows) -> LabelledSamples:
        if not listed.files:
            return Reread(kind, rows, data, key)
        paths = [Path(listed.root) / p if p and not p.startswith(KEYED) else NOWHERE for p in rows.places]
        pictures = Pictures(rows.split, paths, rows.labels, torch.tensor(rows.ids, dtype=torch.int64), rows.digests)
        pictures.__dict__["content"] = rows.content
        pictures.former = tuple((listed.root, before) for before in listed.former)
        return pictures

    return StreamParts(listed.name, kind, part(resolved.train), part(resolved.test), tuple(resolved.class_names))


@final
class Located:
    """A source of today, opened on first use.

    Args:
        listed: Its part of the list.
        opened: The source, if it is open already.
    """

    def __init__(self, listed: sample_list.ListedSource, opened: Source | None = None) -> None:
        """Store the arguments."""
        self.listed = listed
        if opened is not None:
            self.__dict__["source"] = opened

    @cached_property
    def source(self) -> Source | None:
        """The source; None where it cannot be opened."""
        try:
            return open_source(self.listed.spec, [])
        except (UserError, OSError):
            return None

    def rows(self, split: str) -> Part | None:
        """Return the samples of a split; all sentences, for a table with other lines may be split in another way."""
        if self.source is None:
            return None
        train, test = self.source.train, self.source.test
        if isinstance(train, Sentences) and isinstance(test, Sentences):
            return Sentences(split, train.sentences + test.sentences, torch.cat([train.labels, test.labels]))
        return next((p for p in (train, test) if p.split == split), None)

    def resolved(self, listed: sample_list.ListedSource, key: bytes) -> sample_list.ListedSource:
        """Return the list with the names and places of what was forgotten, as far as the data still hold it."""
        if self.source is None:
            return listed
        resolved = deepcopy(listed)
        names = {sample_list.hidden_name(key, "class", name): name for name in self.source.class_names}
        resolved.class_names = [names.get(name, name) for name in listed.class_names]
        if listed.files:
            every = (self.source.train, self.source.test)
            here = [place_of(Path(f), listed.root) for p in every for f in p.images]  # type: ignore[union-attr]
            places = {sample_list.hidden_name(key, "place", place): place for place in here}
            for rows in (resolved.train, resolved.test):
                rows.places = [places.get(p, p) if i in rows.gone else p for i, p in enumerate(rows.places)]
        return resolved


@final
class Reread(LabelledSamples):
    """Samples of a split that their source holds in memory: found there when they are first read.

    Args:
        kind: What they are.
        rows: Their rows in the list.
        data: Where they are.
        key: The run's key.
    """

    def __init__(
        self, kind: Literal["pictures", "sentences"], rows: sample_list.SplitRows, data: Located, key: bytes | None
    ) -> None:
        """Store the arguments."""
        self.kind, self.split, self.rows, self.data, self.key = kind, rows.split, rows, data, key
        self.labels = torch.tensor(rows.labels, dtype=torch.int64)
        self.ids = torch.tensor(rows.ids, dtype=torch.int64)
        self._checked = torch.zeros(len(rows.ids), dtype=torch.bool)

    @property
    def content(self) -> str:
        """The rows of the list."""
        return self.rows.content

    def read(self, rows: Tensor, device: torch.device = CPU) -> Tensor | list[Any]:
        """Return the samples at ``rows`` as the source does.

        Raises:
            UserError: If one is gone, or another than it was.
        """
        part, at = self._found
        if part is None or bool((at[rows] < 0).any()):
            lost = int(rows[int((at[rows] < 0).nonzero()[0])])
            raise absent(self.rows.places[lost] or f"A sample of {self.data.listed.spec}", int(self.ids[lost]))
        new = rows[~self._checked[rows]]
        for row, digest in zip(new.tolist(), digests_of(part, at[new].tolist()), strict=True):
            if self.rows.digests[row] not in ("", digest):
                raise UserError(
                    f"Sample {int(self.ids[row])} of {self.data.listed.spec} differs from what the run read; restore "
                    "the earlier one, or let the run forget it."
                )
        self._checked[new] = True
        return part.read(at[rows], device)

    def present(self, rows: Tensor) -> Tensor:
        """Return a mask of the samples at ``rows`` that are still there."""
        return self._found[1][rows] >= 0

    @cached_property
    def _found(self) -> tuple[Part | None, Tensor]:
        """The samples of the source, and where each row is among them; -1 for those that are gone."""
        part = self.data.rows(self.split)
        if part is None:
            return None, torch.full((len(self.ids),), -1)
        if isinstance(part, Pictures):
            place = {own: i for i, own in enumerate(part.ids.tolist())}
            return part, torch.tensor([place.get(own, -1) for own in self.rows.ids])
        waiting, names = defaultdict[object, list[int]](list), self.data.source.class_names if self.data.source else ()
        digests = digests_of(part, range(len(part)))
        for i in reversed(range(len(part))):  # the first of equal ones is taken first
            waiting[digests[i], names[int(part.labels[i])]].append(i)
            if self.key:
                waiting[sample_list.hidden_name(self.key, "place", digests[i])].append(i)
        return part, torch.tensor([self._match(waiting, i) for i in range(len(self.ids))])

    def _match(self, waiting: dict[object, list[int]], row: int) -> int:
        if row in self.rows.gone:
            candidates = waiting.get(self.rows.places[row])
        else:
            candidates = waiting.get((self.rows.digests[row], self.data.listed.class_names[self.rows.labels[row]]))
        return candidates.pop() if candidates else -1


def forgets(listed: sample_list.ListedSource) -> bool:
    """Tell whether some of a list was forgotten."""
    return bool(listed.train.gone or listed.test.gone or any(n.startswith(KEYED) for n in listed.class_names))


def digests_of(part: Part, rows: Sequence[int]) -> list[str]:
    """Return the SHA-256 of the bytes of each sample at ``rows``."""
    if isinstance(part, Sentences):
        return [sha256(part.sentences[i].encode()).hexdigest() for i in rows]
    if isinstance(part.images, Tensor):
        return [sha256(part.images[i].contiguous().numpy().tobytes()).hexdigest() for i in rows]
    return in_parallel(file_hash, [part.images[i] for i in rows])


def _rows(part: Part, digests: list[str], root: str, tables: Sequence[str], wanted: set[int]) -> sample_list.SplitRows:
    """Return what is to be told of a split's samples of the classes ``wanted``."""
    if isinstance(part, Pictures) and not isinstance(part.images, Tensor):
        places = [place_of(Path(f), root) for f in part.images]
        content = Pictures(part.split, part.images, part.labels, part.ids, digests).content
    else:
        place_names = part.places if isinstance(part, Sentences) else ()
        places, content = [_line(place, tables) for place in place_names] or [""] * len(part), part.content
    keep = [i for i, label in enumerate(part.labels.tolist()) if label in wanted]

    def chosen(column: Sequence[Any]) -> list[Any]:
        return [column[i] for i in keep] if len(column) else []

    return sample_list.SplitRows(
        split=part.split,
        ids=chosen(part.ids.tolist()),
        labels=chosen(part.labels.tolist()),
        places=chosen(places),
        digests=chosen(digests),
        columns=chosen([dict(c) for c in part.columns]),
        content=content,
    )


def _line(where: str, tables: Sequence[str]) -> str:
    """Return a line of a table, told by the table's name alone.

    >>> _line("../data/said.csv, line 3", ["../data/said.csv"])
    'said.csv, line 3'
    """
    return next((Path(t).name + where[len(t) :] for t in tables if where.startswith(f"{t}, ")), where)


def place_of(file: Path, root: str) -> str:
    """Return a path below ``root``, or the whole path of what lies elsewhere."""
    whole = file.absolute()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)

"""Samples: labelled, read in batches, joined and split without reading them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from hashlib import sha256
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Batch(NamedTuple):
    """Some samples: inputs ``(n, ...)``, class ids ``(n,)`` int64, and stable sample ids ``(n,)`` int64."""

    x: Tensor
    y: Tensor
    ids: Tensor


class Samples(Dataset[Batch], ABC):
    """Labelled samples that are read in batches; labels and ids are known without decoding anything.

    Attributes:
        labels: ``(n,)`` int64 class ids.
        ids: ``(n,)`` int64, stable and unique within a data source and its split; negative for generated samples.
        key: Names the source, split and transform; None when the transform is random, so that no feature is stored.
    """

    labels: Tensor
    ids: Tensor
    key: str | None

    @abstractmethod
    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read the samples at ``rows``."""

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.labels)

    def on(self, device: torch.device) -> Samples:
        """Return the same samples with inputs on ``device``; labels and ids stay on the CPU."""
        return self if device.type == "cpu" else self._through(lambda leaf: leaf._placed(device))

    def unkept(self) -> Samples:
        """Return the same samples, read without a cached copy."""
        return self._through(lambda leaf: leaf._unkept())

    def _through(self, change: Callable[[Samples], Samples]) -> Samples:
        """Return the same with ``change`` applied to the inputs read."""
        return change(self)

    def _placed(self, device: torch.device) -> Samples:
        return _Moved(self, device)

    def _unkept(self) -> Samples:
        return self

    def release(self, rows: Sequence[int]) -> None:
        """Delete cached copies of the samples at ``rows``; most have none."""

    def present(self, rows: Sequence[int]) -> Tensor:
        """Return a mask ``(k,)`` of the samples at ``rows`` that exist: files may have been deleted."""
        return torch.ones(len(rows), dtype=torch.bool)

    @property
    def sources(self) -> tuple[Samples, ...]:
        """The samples by source: each has a key of its own."""
        return (self,)

    @property
    def content(self) -> str | None:
        """Hash of the bytes behind the source by sample id, slow to compute; None if runs share no features.

        A key is the name of a source; two data sets may have the same.
        """
        return None

    def absent(self) -> list[str]:
        """Name the samples that are missing."""
        rows = (~self.present(range(len(self)))).nonzero()[:, 0].tolist()
        return self.describe(rows) if rows else []

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Name the samples at ``rows``, for a message: by path where they are files, else by id."""
        return [f"sample {i}" for i in self.ids[list(rows)].tolist()]

    def classes(self) -> list[int]:
        """Return the ids of all classes that reading may bring."""
        return sorted(set(self.labels.tolist()))

    def where(self, mask: Tensor) -> Samples:
        """Return the samples for which the boolean ``mask`` ``(n,)`` holds, in order."""
        return Subset(self, mask.nonzero()[:, 0])

    def of(self, classes: Iterable[int]) -> Samples:
        """Return the samples of ``classes``, in order."""
        return self.where(torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64)))

    def without(self, ids: Tensor) -> Samples:
        """Return the samples whose ids are not among ``ids``."""
        return self.where(~torch.isin(self.ids, ids))


@final
class _Moved(Samples):
    """The same samples, their inputs moved to a device."""

    def __init__(self, whole: Samples, device: torch.device) -> None:
        self.whole, self.device = whole, device
        self.labels, self.ids, self.key = whole.labels, whole.ids, whole.key

    @property
    def content(self) -> str | None:
        return self.whole.content

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        batch = self.whole[rows]
        return batch._replace(x=batch.x.to(self.device))

    def present(self, rows: Sequence[int]) -> Tensor:
        return self.whole.present(rows)


@final
class Subset(Samples):
    """Some rows of other samples; a subset of a subset refers to the original."""

    def __init__(self, whole: Samples, rows: Tensor) -> None:
        """Keep ``rows`` of ``whole``."""
        self.whole: Samples = whole.whole if isinstance(whole, Subset) else whole
        self.rows: Tensor = whole.rows[rows] if isinstance(whole, Subset) else rows
        self.labels, self.ids, self.key = whole.labels[rows], whole.ids[rows], whole.key

    @property
    def content(self) -> str | None:
        """That of the original."""
        return self.whole.content

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read through to the original."""
        return self.whole[self.rows[torch.as_tensor(rows, dtype=torch.int64)].tolist()]

    def _through(self, change: Callable[[Samples], Samples]) -> Samples:
        view = copy(self)  # which may have another key
        view.whole = self.whole._through(change)
        return view

    def present(self, rows: Sequence[int]) -> Tensor:
        """Ask the original."""
        return self.whole.present(self.rows[torch.as_tensor(rows, dtype=torch.int64)].tolist())

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Ask the original."""
        return self.whole.describe(self.rows[torch.as_tensor(rows, dtype=torch.int64)].tolist())

    def release(self, rows: Sequence[int]) -> None:
        """Release those of the original."""
        self.whole.release(self.rows[torch.as_tensor(rows, dtype=torch.int64)].tolist())


@final
class Joined(Samples):
    """Several samples, one after the other: replay is a concatenation."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        """Join ``parts``, at least one."""
        self.parts = tuple(parts)
        self.labels = torch.cat([p.labels for p in self.parts])
        self.ids = torch.cat([p.ids for p in self.parts])
        self.starts = torch.tensor([0, *(len(p) for p in self.parts)]).cumsum(0)
        keys = {p.key for p in self.parts}
        self.key = keys.pop() if len(keys) == 1 else None

    @property
    def sources(self) -> tuple[Samples, ...]:
        """What was joined."""
        return self.parts

    @property
    def content(self) -> str | None:
        """That of all parts, if they have the same."""
        contents = {p.content for p in self.parts}
        return contents.pop() if len(contents) == 1 else None

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read each part once and restore the requested order."""
        pieces, places = [], []
        for part, at, inner in self._dealt(rows):
            pieces.append(part[inner])
            places.append(at)
        back = torch.argsort(torch.cat(places))
        return Batch(*(torch.cat(column)[back.to(column[0].device)] for column in zip(*pieces, strict=True)))

    def _through(self, change: Callable[[Samples], Samples]) -> Samples:
        view = copy(self)
        view.parts = tuple(p._through(change) for p in self.parts)
        return view

    def present(self, rows: Sequence[int]) -> Tensor:
        """Ask each part."""
        mask = torch.ones(len(rows), dtype=torch.bool)
        for part, at, inner in self._dealt(rows):
            mask[at] = part.present(inner)
        return mask

    def release(self, rows: Sequence[int]) -> None:
        """Release those of each part."""
        for part, _, inner in self._dealt(rows):
            part.release(inner)

    def _dealt(self, rows: Sequence[int]) -> Iterator[tuple[Samples, Tensor, list[int]]]:
        """Yield each part that holds some of ``rows``: which of them, and where they are in it."""
        asked = torch.as_tensor(rows, dtype=torch.int64)
        owner = torch.bucketize(asked, self.starts[1:], right=True)
        for i in sorted(set(owner.tolist())):
            at = (owner == i).nonzero()[:, 0]
            yield self.parts[i], at, (asked[at] - self.starts[i]).tolist()


@final
class Relabelled(Samples):
    """The same samples under other class and sample ids: for two sources in one stream, or a class that comes again.

    Args:
        whole: The samples.
        classes: Added to every class id; or the new id of each class, those not named keeping theirs.
        ids: Added to every sample id.
    """

    def __init__(self, whole: Samples, classes: int | Mapping[int, int], ids: int = 0) -> None:
        """Keep the samples and their new names."""
        self.whole, self.key = whole, whole.key if whole.key is None or not ids else f"{whole.key}+{ids}"
        self.ids = whole.ids + ids
        if isinstance(classes, int):
            self.labels = whole.labels + classes
        else:
            self.labels = torch.tensor([classes.get(c, c) for c in whole.labels.tolist()], dtype=torch.int64)
        self._moved = ids

    @property
    def content(self) -> str | None:
        """That of the original, under other ids."""
        content = self.whole.content
        return content if content is None or not self._moved else f"{content}+{self._moved}"

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read through and relabel."""
        at = torch.as_tensor(rows, dtype=torch.int64)
        return Batch(self.whole[rows].x, self.labels[at], self.ids[at])

    def _through(self, change: Callable[[Samples], Samples]) -> Samples:
        view = copy(self)
        view.whole = self.whole._through(change)
        return view

    def present(self, rows: Sequence[int]) -> Tensor:
        """Ask the original."""
        return self.whole.present(rows)

    def release(self, rows: Sequence[int]) -> None:
        """Release those of the original."""
        self.whole.release(rows)


@final
class Rows(Samples):
    """Samples held as one tensor, such as features drawn from a Gaussian."""

    def __init__(self, x: Tensor, labels: Tensor, ids: Tensor | None = None, key: str | None = None) -> None:
        """Keep ``x`` ``(n, ...)`` and its labels; without ids they are numbered down from -1."""
        self.x, self.labels, self.key = x, labels, key
        self.ids = -1 - torch.arange(len(labels)) if ids is None else ids

    @property
    def content(self) -> str | None:
        """Hash of the rows and their ids."""
        sha = sha256(f"{self.x.dtype} {tuple(self.x.shape)}".encode())
        for part in (self.ids, self.x):
            sha.update(part.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Index the tensor."""
        return Batch(self.x[rows], self.labels[rows], self.ids[rows])

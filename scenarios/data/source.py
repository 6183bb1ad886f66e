"""Data sources of pictures and sentences: two labelled splits, and views through a transform."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from cl_framework.errors import MissingSample, UserError
from cl_framework.functional import not_finite
from cl_framework.storage import file_hash
from cl_framework.streams import Batch, Samples
from scenarios.data.arrays import class_indices, upright
from scenarios.pictures.decode import in_parallel, read_image
from scenarios.pictures.transforms import CPU, Pipeline

NOWHERE = Path("(forgotten)")
"""Place of a picture that a run has forgotten."""
RESIDENT = 2**30
"""Most bytes of one split, held in memory as whole numbers, that are held on the device of training as well."""
HELD_OUT = 0.2
"""Share of each class that is held out where the data name no test split."""


class LabelledSamples(ABC):
    """Samples as a view reads them; `Pictures` tells of the attributes."""

    split: str
    labels: Tensor
    ids: Tensor

    def present(self, rows: Tensor) -> Tensor:
        """Return a mask of the samples at ``rows`` that are still there."""
        return torch.ones(len(rows), dtype=torch.bool)

    @property
    @abstractmethod
    def content(self) -> str:
        """Return a hash of the bytes of every sample, and of the ids; asked for where runs share features."""

    @abstractmethod
    def read(self, rows: Tensor, device: torch.device = CPU) -> Tensor | list[Any]:
        """Return the samples at ``rows``: one tensor on ``device``, or a list on the CPU where shapes differ."""

    def release(self, rows: Tensor) -> None:  # noqa: B027  # most keep none
        """Delete cached copies of the samples at ``rows``."""

    def unkept(self) -> LabelledSamples:
        """Return the same samples, read without a cached copy."""
        return self


@final
class Pictures(LabelledSamples):
    """Labelled pictures of one split, held in memory or read from files when asked for.

    Attributes:
        images: ``(n, C, H, W)`` with one or three channels, uint8 or floats in [0, 1]; or the path of each file.
        labels: ``(n,)`` int64 indices into the source's class names.
        ids: ``(n,)`` int64, the row in the split as the source first listed it.
        split: The split these rows come from, such as ``train``.
        digests: SHA-256 of each file as it was when the run met it, nothing where nobody knows; None for all of them.
        columns: Further cells of each one's line in a table, by the column's name; nothing if there are none.
    """

    kind: ClassVar[Literal["pictures"]] = "pictures"
    noun: ClassVar[str] = "images"

    def __init__(
        self,
        split: str,
        images: Tensor | np.ndarray[Any, Any] | Sequence[Path],
        labels: Tensor | Sequence[int],
        ids: Tensor | None = None,
        digests: Sequence[str] | None = None,
        columns: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Keep the pictures, arrays in whatever layout `arrays.upright` takes; ids count up unless given.

        Raises:
            UserError: If it is not plain what an array holds, there are more or fewer labels than pictures, a label is
                no whole number, or a picture holds NaN or infinity; it is named.
        """
        self.split, self.digests, self.columns = split, digests, columns
        held = isinstance(images, Tensor | np.ndarray)
        self.images = upright(f"{split} images", images) if held else tuple(images)  # type: ignore[arg-type]
        self.labels = class_indices(f"{split} labels", labels)
        self.ids = torch.arange(len(self.labels)) if ids is None else ids
        self.former: tuple[tuple[str, str], ...] = ()  # folder of the files, and where that was before it was moved
        self._resident: dict[torch.device, Tensor] = {}
        self._changed: set[Path] = set()  # which are there, and others than the run met; known once they were read
        if len(self.images) != len(self.labels):
            raise UserError(f"{len(self.images)} {split} images have {len(self.labels)} labels; give one for each.")
        if isinstance(self.images, Tensor) and len(bad := not_finite(self.images)):
            raise UserError(f"NaN or infinity in {split} samples {self.describe(bad)}; fix or remove these images.")

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.labels)

    def take(self, rows: Tensor) -> Pictures:
        """Return the pictures at ``rows``; they keep their ids."""
        taken = copy(self)  # which was looked at already
        images = self.images
        taken.images = images[rows] if isinstance(images, Tensor) else tuple(images[i] for i in rows.tolist())
        taken.labels, taken.ids, taken._resident = self.labels[rows], self.ids[rows], {}
        taken.digests = None if self.digests is None else [self.digests[i] for i in rows.tolist()]
        taken.columns = [self.columns[i] for i in rows.tolist()] if self.columns else ()
        taken.__dict__.pop("content", None)
        return taken

    def decoded(self, row: int) -> Tensor:
        """Return the picture in the file of ``row``: ``(3, H, W)`` uint8.

        Raises:
            UserError: If it is missing, cannot be decoded, or is another than the run met.
        """
        file = Path(self.images[row])  # type: ignore[arg-type]  # they are in files
        digest = self.digests[row] if self.digests else ""
        if self.digests is not None and not file.is_file():
            raise absent(str(file), int(self.ids[row]))
        if digest and file_hash(file) != digest:
            self._changed.add(file)
            forget = f", or let the run forget it (--samples id:{int(self.ids[row])} --without forget)"
            or_else = "" if self.split == "test" else forget
            problem = f"{file} differs from the picture that the run read; restore the earlier one{or_else}."
            raise MissingSample(problem, changed=True)
        return read_image(file)

    def present(self, rows: Tensor) -> Tensor:
        """Return a mask of the pictures at ``rows`` that are in memory or in files not known to have changed."""
        if isinstance(self.images, Tensor):
            return super().present(rows)
        files = [self.images[i] for i in rows.tolist()]
        return torch.tensor([f.is_file() and f not in self._changed for f in files], dtype=torch.bool)

    def read(self, rows: Tensor, device: torch.device = CPU) -> Tensor | list[Tensor]:
        """Return pictures with three channels: one tensor on ``device`` from memory, a list on the CPU from files.

        Raises:
            UserError: If a file is missing or cannot be decoded; it is named.
        """
        if not isinstance(self.images, Tensor):
            return in_parallel(self.decoded, rows.tolist())
        small = self.images.dtype == torch.uint8 and self.images.nbytes <= RESIDENT
        if small and device not in self._resident and device.type != "cpu":
            self._resident[device] = self.images.to(device)
        resident = self._resident.get(device)
        held = gathered(self.images, rows, device) if resident is None else resident[rows.to(device)]
        return held if held.shape[1] == 3 else held.expand(-1, 3, -1, -1)

    def digest(self) -> str:
        """Return a sha256: of the bytes in memory; of relative paths and sizes for files, which are not opened."""
        h = sha256(self.labels.numpy().tobytes() + self.ids.numpy().tobytes())
        if isinstance(self.images, Tensor):
            h.update(f"{self.images.dtype} {tuple(self.images.shape)}".encode())
            h.update(self.images.contiguous().numpy().data)
        elif self.images:
            root = os.path.commonpath(self.images)
            for path in self.images:
                h.update(f"{Path(os.path.relpath(path, root)).as_posix()}\0{path.stat().st_size}\0".encode())
        return h.hexdigest()

    @cached_property
    def content(self) -> str:
        """A sha256 of ids and pictures; files are read, once for each picture list there is."""
        h = sha256(self.ids.numpy().tobytes())
        if isinstance(self.images, Tensor):
            h.update(f"{self.images.dtype} {tuple(self.images.shape)}".encode())
            h.update(self.images.contiguous().numpy().data)
        else:
            for i, path in enumerate(self.images):
                digest = self.digests[i] if self.digests else ""
                h.update(bytes.fromhex(digest) if digest else sha256(path.read_bytes()).digest())
        return h.hexdigest()

    def describe(self, rows: Tensor) -> str:
        """Name the samples at ``rows``, at most five of them, for a message."""
        known: Sequence[object] = self.images if isinstance(self.images, tuple) else self.ids.tolist()
        return ", ".join(str(known[i]) for i in rows[:5].tolist()) + (", ..." if len(rows) > 5 else "")


@final
class Sentences(LabelledSamples):
    """Labelled sentences of one split.

    Attributes:
        sentences: The sentences.
        labels: ``(n,)`` int64 indices into the source's class names.
        ids: ``(n,)`` int64, the row in the split as the source first listed it.
        split: The split these rows come from, such as ``train``.
        places: Where each stands, such as ``FILE, line 3``; nothing if nobody knows.
        columns: Further cells of each one's line, by the column's name; nothing if there are none.
    """

    kind: ClassVar[Literal["sentences"]] = "sentences"
    noun: ClassVar[str] = "sentences"

    def __init__(
        self,
        split: str,
        sentences: Sequence[str],
        labels: Tensor | Sequence[int],
        ids: Tensor | None = None,
        places: Sequence[str] = (),
        columns: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Keep the sentences; ids count up unless given.

        Raises:
            UserError: If a label is no whole number.
        """
        self.split, self.sentences, self.places, self.columns = split, tuple(sentences), places, columns
        self.labels = class_indices(f"{split} labels", labels)
        self.ids = torch.arange(len(self.labels)) if ids is None else ids

    def __len__(self) -> int:
        """Count the sentences."""
        return len(self.labels)

    def take(self, rows: Tensor) -> Sentences:
        """Return the sentences at ``rows``; they keep their ids."""
        places, columns = (
            [values[i] for i in rows.tolist()] if values else () for values in (self.places, self.columns)
        )
        return Sentences(self.split, self.read(rows), self.labels[rows], self.ids[rows], places, columns)

    def read(self, rows: Tensor, device: torch.device = CPU) -> list[str]:
        """Return sentences."""
        return [self.sentences[i] for i in rows.tolist()]

    def digest(self) -> str:
        """Return a sha256 of sentences, labels and ids."""
        h = sha256(self.labels.numpy().tobytes() + self.ids.numpy().tobytes())
        h.update("\0".join(self.sentences).encode())
        return h.hexdigest()

    @cached_property
    def content(self) -> str:
        """A sha256 of ids and sentences."""
        h = sha256(self.ids.numpy().tobytes())
        for sentence in self.sentences:
            h.update(sha256(sentence.encode()).digest())
        return h.hexdigest()

    def describe(self, rows: Tensor) -> str:
        """Name the samples at ``rows``, at most five of them, for a message."""
        return ", ".join(map(repr, self.read(rows[:5]))) + (", ..." if len(rows) > 5 else "")


@final
@dataclass(frozen=True, eq=False)
class Source:
    """Pictures or sentences: a training split with every class, and a test split.

    Attributes:
        name: The source as specified; part of the key of its features.
        train: Training samples.
        test: Test samples; only the evaluator sees them.
        class_names: Name of each label.
        said: Whether the data have a test split of their own.
    """

    name: str
    train: Pictures | Sentences
    test: Pictures | Sentences
    class_names: tuple[str, ...]
    said: bool = True

    def __post_init__(self) -> None:
        """Check every label.

        Raises:
            UserError: If a label lies outside the declared classes, a class has no training samples, or there are no
                test samples.
        """
        n = len(self.class_names)
        for part in (self.train, self.test):
            if len(bad := ((part.labels < 0) | (part.labels >= n)).nonzero()[:, 0]):
                labels = ", ".join(map(str, sorted(set(part.labels[bad].tolist()))[:5]))
                raise UserError(
                    f"{self.name} declares classes 0 to {n - 1}, but {part.split} samples {part.describe(bad)} "
                    f"are labelled {labels}; correct the labels or declare the classes."
                )
        if bare := [c for c, n in zip(self.class_names, self.counts(self.train), strict=True) if not n]:
            names = ", ".join(map(repr, bare[:5])) + (", ..." if len(bare) > 5 else "")
            raise UserError(f"Class {names} of {self.name} has no train {self.train.noun}; add some or remove it.")
        if self.said:
            self.check_exam()

    def check_exam(self) -> None:
        """Require test samples.

        Raises:
            UserError: If there is nothing.
        """
        if not len(self.test):
            raise UserError(f"{self.name} has no test {self.test.noun} of any class; add some to evaluate on.")

    @property
    def unexamined(self) -> list[str]:
        """Names of the classes without test samples."""
        return [c for c, n in zip(self.class_names, self.counts(self.test), strict=True) if not n]

    def counts(self, part: Pictures | Sentences) -> list[int]:
        """Return how many samples of each class a split has."""
        counts: list[int] = torch.bincount(part.labels, minlength=len(self.class_names)).tolist()
        return counts

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over class names, labels, and pictures (for files: their relative paths and sizes)."""
        parts = (*self.class_names, self.train.digest(), self.test.digest())
        return sha256("\0".join(parts).encode()).hexdigest()

    def validating(self, share: float, seed: int = 0) -> Source:
        """Return a source tested on a held-out ``share`` of the training samples, without the test split."""
        kept, held = stratified(self.train.labels, share, seed)
        return replace(self, train=self.train.take(kept), test=self.train.take(held))


def in_order(labels: Collection[str]) -> list[str]:
    """Return class names in the order of their ids: sorted, as numbers if all are.

    >>> in_order({"10", "9"}), in_order({"b", "10", "9"})
    (['9', '10'], ['10', '9', 'b'])
    """
    return sorted(labels, key=int) if all(c.isdecimal() for c in labels) else sorted(labels)


def stratified(labels: Tensor, share: float | None, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows so that every class gives its ``share`` and at least one row, and keeps one; a single row is kept.

    Args:
        labels: ``(n,)`` the class of each row.
        share: How much of each class is held out; None stands for `HELD_OUT`.
        seed: Of the split.

    Returns:
        The rows kept and the rows held out, each in ascending order.

    Raises:
        UserError: If ``share`` is not between 0 and 1.
    """
    share = HELD_OUT if share is None else share
    if not 0 < share < 1:
        raise UserError(f"The held-out share must lie between 0 and 1, found {share}; 0.2 holds out a fifth.")
    g = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for c in sorted(set(labels.tolist())):
        rows = (labels == c).nonzero()[:, 0]
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[rows[torch.randperm(len(rows), generator=g)[:count]]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def check_share(name: str, has_test: bool, test: float | None) -> None:
    """Refuse a share to hold out of data with a test split.

    Raises:
        UserError: If there is one.
    """
    if has_test and test is not None:
        raise UserError(f"{name} has a test split of its own; leave out the option test={test}.")


def absent(name: str, sample: int) -> MissingSample:
    """Return the error for a sample that is missing."""
    return MissingSample(
        f"{name} is gone (sample {sample}), and must be read; restore it. If it is to be forgotten, "
        "give --without forget."
    )


@final
class View(Samples):
    """Samples through a transform; a batch has x ``(n, 3, S, S)`` float32 in [0, 1], or ``(n, bytes)`` uint8."""

    def __init__(self, samples: LabelledSamples, pipeline: Pipeline, key: str | None = None) -> None:
        """Apply ``pipeline`` to ``samples``; give a ``key`` only if the pipeline has no randomness."""
        self.samples, self.pipeline, self.key, self.device = samples, pipeline, key, CPU
        self.labels, self.ids = samples.labels, samples.ids

    @property
    def content(self) -> str:
        """That of the samples; the transform is told by the key."""
        return self.samples.content

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read and transform the samples at ``rows``.

        Raises:
            UserError: If a file cannot be read; it is named.
        """
        at = torch.as_tensor(rows, dtype=torch.int64)
        x = self.pipeline(self.samples.read(at, self.device), self.device)
        return Batch(x, self.labels[at], self.ids[at])

    def present(self, rows: Sequence[int]) -> Tensor:
        """Ask the samples."""
        return self.samples.present(torch.as_tensor(rows, dtype=torch.int64))

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Name the files at ``rows``; what is none, or was forgotten, goes by its id."""
        files = getattr(self.samples, "files", None) or getattr(self.samples, "images", None)
        names = super().describe(rows)
        if not isinstance(files, tuple):
            return names
        return [name if files[i] == NOWHERE else str(files[i]) for i, name in zip(rows, names, strict=True)]

    def _placed(self, device: torch.device) -> Samples:
        if device.type != "cuda":  # other accelerators know no double precision
            return super()._placed(device)
        view = copy(self)
        view.device = device
        return view

    def _unkept(self) -> Samples:
        view = copy(self)
        view.samples = self.samples.unkept()
        return view

    def release(self, rows: Sequence[int]) -> None:
        """Delete cached copies of the samples at ``rows``."""
        self.samples.release(torch.as_tensor(rows, dtype=torch.int64))


def gathered(source: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Return ``source[rows]`` on ``device``: in pinned memory for a GPU, so that the copy is asynchronous."""
    if device.type != "cuda":
        return source[rows].to(device)
    pinned = torch.empty((len(rows), *source.shape[1:]), dtype=source.dtype, pin_memory=True)
    return torch.index_select(source, 0, rows, out=pinned).to(device, non_blocking=True)

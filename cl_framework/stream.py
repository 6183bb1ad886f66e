"""What arrives, and in what order: samples, experiences, forget requests, steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cl_framework.errors import UserError


class Batch(NamedTuple):
    """Some samples: inputs ``(n, ...)``, class ids ``(n,)`` int64, and stable sample ids ``(n,)`` int64."""

    x: Tensor
    y: Tensor
    ids: Tensor


class Samples(Dataset[Batch], ABC):
    """Labelled samples that are read in batches; labels and ids are known without decoding anything.

    Attributes:
        labels: ``(n,)`` int64 class ids.
        ids: ``(n,)`` int64, stable and unique within a data source and its split; below zero for made-up samples.
        key: Names the source, split and transform; None when the transform is random, so that nothing is remembered.
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

    @property
    def sources(self) -> tuple[Samples, ...]:
        """The samples by the source they come from: each has a key of its own."""
        return (self,)

    @property
    def content(self) -> str | None:
        """Hash of the bytes behind the source by sample id, which may take a while; None if runs share no features.

        A key is what a source is called; two data sets may be called the same.
        """
        return None

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
        found = {p.content for p in self.parts}
        return found.pop() if len(found) == 1 else None

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read each part once and restore the order asked for."""
        asked = torch.as_tensor(rows, dtype=torch.int64)
        owner = torch.bucketize(asked, self.starts[1:], right=True)
        pieces, places = [], []
        for i in sorted(set(owner.tolist())):
            at = (owner == i).nonzero()[:, 0]
            pieces.append(self.parts[i][(asked[at] - self.starts[i]).tolist()])
            places.append(at)
        back = torch.argsort(torch.cat(places))
        return Batch(*(torch.cat(column)[back] for column in zip(*pieces, strict=True)))


@final
class Relabelled(Samples):
    """The same samples under other class and sample ids: two sources meet in one stream, a class comes back anew.

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
        found = self.whole.content
        return found if found is None or not self._moved else f"{found}+{self._moved}"

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read through and relabel."""
        at = torch.as_tensor(rows, dtype=torch.int64)
        return Batch(self.whole[rows].x, self.labels[at], self.ids[at])


@final
class Rows(Samples):
    """Samples held as one tensor, such as features drawn from a Gaussian."""

    def __init__(self, x: Tensor, labels: Tensor, ids: Tensor | None = None, key: str | None = None) -> None:
        """Keep ``x`` ``(n, ...)`` and its labels; without ids they are made up, and count down from -1."""
        self.x, self.labels, self.key = x, labels, key
        self.ids = -1 - torch.arange(len(labels)) if ids is None else ids

    @property
    def content(self) -> str | None:
        """Hash of the rows and their ids."""
        found = sha256(f"{self.x.dtype} {tuple(self.x.shape)}".encode())
        for part in (self.ids, self.x):
            found.update(part.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Index the tensor."""
        return Batch(self.x[rows], self.labels[rows], self.ids[rows])


@final
class Inputs:
    """Inputs that may never have to be read: a strategy predicts from them, the feature store may already know them.

    Attributes:
        ids: ``(n,)`` sample ids, meaningful together with ``key``.
        key: Source, split and transform, or None when nothing may be remembered.
    """

    def __init__(self, read: Callable[[], Tensor], ids: Tensor, key: str | None = None) -> None:
        """Keep how to read the tensor."""
        self._read, self.ids, self.key = read, ids, key
        self._tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The inputs themselves, read at most once."""
        if self._tensor is None:
            self._tensor = self._read()
        return self._tensor

    def __len__(self) -> int:
        """Count the inputs."""
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> Inputs:
        """Return the inputs at ``rows`` ``(k,)``, as unread as they were."""
        return Inputs(lambda: self.tensor[rows.to(self.tensor.device)], self.ids[rows.to(self.ids.device)], self.key)


@dataclass(frozen=True, slots=True)
class Experience:
    """What may be learned now. Holds no test data and no view of the future.

    Attributes:
        name: Unique in its stream; seeds are derived from it, so history leaves no mark on the dice.
        classes: Ids of the classes it brings, stable names rather than row numbers.
        data: Its samples with the training transform.
        reference: The same samples, in the same order, with the test transform: for prototypes and statistics.
        inherited: Where the backbone's own pre-trained classifier knows these classes already and nothing is to be
            learned: the row of that classifier for each class id. Empty for an experience that is really learned.
        relearned: Classes that were forgotten and are asked for again: their new id, and the id they had before.
    """

    name: str
    classes: tuple[int, ...]
    data: Samples
    reference: Samples
    inherited: Mapping[int, int] = field(default_factory=dict)
    relearned: Mapping[int, int] = field(default_factory=dict)

    def without(self, classes: Iterable[int] = (), ids: Tensor | None = None) -> Experience | None:
        """Return what is left of the experience once classes and samples are gone; None if nothing is."""
        gone = set(classes)
        keep = tuple(c for c in self.classes if c not in gone)
        data, reference = self.data.of(keep), self.reference.of(keep)
        if ids is not None:
            data, reference = data.without(ids), reference.without(ids)
        left = tuple(c for c in keep if bool((data.labels == c).any()))
        rows, again = ({c: m[c] for c in left if c in m} for m in (self.inherited, self.relearned))
        return Experience(self.name, left, data, reference, rows, again) if left else None


Need: TypeAlias = Literal["forget", "retain"]
"""Samples that a way of forgetting may have to read: those that must go, those that stay."""


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """What must be forgotten now.

    Attributes:
        name: Unique in its stream.
        classes: Classes that vanish altogether.
        experiences: Experiences that lose something, in the order they were learned.
        data: The training samples that must go, with the training transform.
        reference: The same samples with the test transform.
        remaining: What is left of every experience so far, in order; methods that need no data never read it.
        missing: Samples that cannot be had any more: those to ``forget``, or those to ``retain``.
        inherited: Whether the backbone's own pre-training met some of what must go.
        first: Name of the oldest experience that was alive when it was asked for.
    """

    name: str
    classes: tuple[int, ...]
    experiences: tuple[str, ...]
    data: Samples
    reference: Samples
    remaining: tuple[Experience, ...]
    missing: frozenset[Need] = frozenset()
    inherited: bool = False
    first: str = ""

    @property
    def single(self) -> bool:
        """Whether only single samples go and every class stays."""
        return not self.classes


Event: TypeAlias = Experience | ForgetRequest


def forget(
    name: str,
    past: Sequence[Experience],
    classes: Iterable[int] = (),
    experiences: Iterable[str] = (),
    samples: Iterable[int] = (),
    missing: Iterable[Need] = (),
) -> ForgetRequest:
    """Resolve a request by class, experience and sample id against what was learned so far.

    Args:
        name: Unique in its stream.
        past: What is left of every experience so far.
        classes: Classes to forget.
        experiences: Experiences to forget, by name.
        samples: Samples to forget, by id.
        missing: Samples that cannot be had any more.

    Raises:
        UserError: If a class, experience or sample was never learned or is already gone, or nothing is asked for.
    """
    wanted, named, ids = set(classes), set(experiences), torch.tensor(sorted(set(samples)), dtype=torch.int64)
    if not (wanted or named or len(ids)):
        raise UserError(f"The forget request {name!r} names nothing; give it classes, experiences or samples.")
    live = {c for e in past for c in e.classes}
    known = {e.name for e in past}
    present = torch.cat([e.data.ids for e in past]) if past else ids.new_empty(0)
    for what, asked, there in (
        ("class", wanted, live),
        ("experience", named, known),
        ("sample", set(ids.tolist()), set(present.tolist()) if len(ids) else set()),
    ):
        if absent := sorted(asked - there, key=str):
            shown = ", ".join(map(str, absent[:10]))
            options = f" Alive now: {', '.join(map(str, sorted(there, key=str)))}." if what != "sample" else ""
            raise UserError(f"Cannot forget {what} {shown}: never learned, or already gone.{options}")
    wanted |= {c for e in past if e.name in named for c in e.classes}
    left = [e.without(wanted, ids) for e in past]
    survivors = {c for e in left if e is not None for c in e.classes}
    wanted |= live - survivors  # a class whose last sample goes, goes with it
    hit = [
        torch.isin(e.data.labels, torch.tensor(sorted(wanted), dtype=torch.int64)) | torch.isin(e.data.ids, ids)
        for e in past
    ]
    touched = [i for i, h in enumerate(hit) if bool(h.any())]
    return ForgetRequest(
        name,
        tuple(sorted(wanted)),
        tuple(past[i].name for i in touched),
        Joined([past[i].data.where(hit[i]) for i in touched]),
        Joined([past[i].reference.where(hit[i]) for i in touched]),
        tuple(e for e in left if e is not None),
        frozenset(missing),
        any(past[i].inherited for i in touched),
        past[0].name,
    )


def exam_of(request: ForgetRequest, exams: Iterable[Samples]) -> Samples:
    """Return what a request is examined on: test samples of the vanishing classes, or the forgotten samples."""
    return request.reference if request.single else Joined([e.of(request.classes) for e in exams])


@dataclass(frozen=True, slots=True)
class Step:
    """An event for the learner, with the exam that only the evaluator may open.

    Attributes:
        event: What the learner meets.
        exam: Test samples of the classes an experience brings; for a forget request, those of the classes that
            vanish, or the forgotten training samples themselves when no class does.
    """

    event: Event
    exam: Samples


def surviving(steps: Iterable[Step]) -> list[Experience]:
    """Return what is left of the experiences in ``steps``, in the order they were learned."""
    past: list[Experience] = []
    for step in steps:
        past = [*past, step.event] if isinstance(step.event, Experience) else list(step.event.remaining)
    return past


class Scenario(ABC):
    """Turns data into an ordered stream of steps.

    Attributes:
        class_names: What each class id is called.
    """

    class_names: Sequence[str]

    @abstractmethod
    def steps(self) -> Iterator[Step]:
        """Yield the steps in the order they happen; every call yields the same ones."""

    def unlock(self, key: bytes) -> None:  # noqa: B027  # nothing to do where no samples are named
        """Take the key under which a run's config hides the samples that its requests name; most name none."""

    def fingerprint(self) -> str:
        """Return a hash of the data behind the stream, for the run's manifest."""
        return ""

    def read(self, files: Sequence[str]) -> Tensor:
        """Read input files as the test transform would, for predictions: ``(n, ...)``.

        Raises:
            UserError: If a file cannot be read, or the stream's inputs are not files.
        """
        raise UserError(f"{type(self).__name__} has no way to read files such as {files[0]}.")

"""What arrives in a stream: experiences, forget requests and steps, with their samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.streams import origins
from cl_framework.streams.origins import Cell
from cl_framework.streams.samples import Joined, Samples


@dataclass(frozen=True, slots=True)
class Experience:
    """What may be learned now. Holds no test data and nothing of later steps.

    Attributes:
        name: Unique in its stream.
        classes: Ids of the classes it brings, stable names rather than row numbers.
        data: Its samples with the training transform.
        reference: The same samples, in the same order, with the test transform: for prototypes and statistics.
        inherited: Row of the backbone's own pre-trained classifier for each class id, where that knows the classes
            already and nothing is to be learned. Empty for an experience that is trained.
        relearned: Classes that were forgotten and are learned again: their new id, and the id they had before.
        seed_name: What seeds are derived from where it is not the name: of two experiences of which the first was
            forgotten altogether, the second draws what it would have drawn without the first.
    """

    name: str
    classes: tuple[int, ...]
    data: Samples
    reference: Samples
    inherited: Mapping[int, int] = field(default_factory=dict)
    relearned: Mapping[int, int] = field(default_factory=dict)
    seed_name: str = ""

    @property
    def seed_source(self) -> str:
        """The name that its seeds are derived from, so that they do not depend on history."""
        return self.seed_name or self.name

    def without(
        self, classes: Iterable[int] = (), ids: Tensor | None = None, cells: Iterable[Cell] = ()
    ) -> Experience | None:
        """Return what is left of the experience once classes, samples and cells are gone; None if nothing is."""
        gone = {*classes, *(c for name, c in cells if name == self.name)}
        keep = tuple(c for c in self.classes if c not in gone)
        data, reference = self.data.of(keep), self.reference.of(keep)
        if ids is not None:
            data, reference = data.without(ids), reference.without(ids)
        left = tuple(c for c in keep if bool((data.labels == c).any()))
        rows, again = ({c: m[c] for c in left if c in m} for m in (self.inherited, self.relearned))
        return Experience(self.name, left, data, reference, rows, again, self.seed_name) if left else None


Need: TypeAlias = Literal["forget", "retain"]
"""Sets that an unlearner may read: the forget set, the retain set."""


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """A forget request, resolved.

    Attributes:
        name: Unique in its stream.
        classes: Classes that are forgotten altogether: no experience keeps samples of them.
        experiences: Experiences that lose samples, in the order they were learned.
        data: The forget set, with the training transform.
        reference: The same samples with the test transform.
        remaining: The retain set: what is left of every experience so far, in order; methods that need no data never
            read it.
        missing: Sets that are no longer available: ``forget_request`` or ``retain``.
        inherited: Whether the backbone's own pre-training met part of the forget set.
        first: Name of the oldest experience that was alive when it was asked for.
        cells: Cells that are forgotten altogether: an experience and one of its classes, which other experiences may
            keep.
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
    cells: frozenset[Cell] = frozenset()

    @property
    def seed_source(self) -> str:
        """The name that its seeds are derived from."""
        return self.name

    @property
    def single(self) -> bool:
        """Whether every class stays: the request takes single samples, or cells of classes that live on."""
        return not self.classes

    @property
    def taken(self) -> dict[Cell, frozenset[int]]:
        """Ids of the forget set by cell."""
        cells = {}
        for experience, part in zip(self.experiences, self.data.sources, strict=True):
            for c in part.classes():
                cells[experience, c] = frozenset(part.ids[part.labels == c].tolist())
        return cells

    @property
    def thinned(self) -> frozenset[Cell]:
        """Cells that lose some of their samples and keep others."""
        return frozenset(self.taken) - self.cells

    @property
    def stays(self) -> dict[int, tuple[str, ...]]:
        """Classes that lose a whole cell and live on; and the experiences that keep some."""
        lose = {c for _, c in self.cells} - set(self.classes)
        return {c: tuple(e.name for e in self.remaining if c in e.classes) for c in sorted(lose)}


Event: TypeAlias = Experience | ForgetRequest


def forget_request(
    name: str,
    past: Sequence[Experience],
    classes: Iterable[int] = (),
    experiences: Iterable[str] = (),
    samples: Iterable[int] = (),
    missing: Iterable[Need] = (),
    cells: Iterable[Cell] = (),
) -> ForgetRequest:
    """Resolve a request by class, experience, sample id and cell against what was learned so far.

    An experience is forgotten with its own cells only: a class that another experience brings too stays alive.

    Args:
        name: Unique in its stream.
        past: What is left of every experience so far.
        classes: Classes to forget.
        experiences: Experiences to forget, by name.
        samples: Samples to forget, by id.
        missing: Sets that are no longer available.
        cells: Experiences, each with one of its classes: what it brought of that class is forgotten.

    Raises:
        UserError: If a class, experience or sample was never learned or is already gone, or nothing is asked for.
    """
    wanted, named, ids = set(classes), set(experiences), torch.tensor(sorted(set(samples)), dtype=torch.int64)
    parts, alive = set(cells), set(origins.cells_of({e.name: e.classes for e in past}))
    if not (wanted or named or parts or len(ids)):
        raise UserError(f"The forget request {name!r} names nothing; give it classes, experiences or samples.")
    live = {c for _, c in alive}
    known = {e.name for e in past}
    present = torch.cat([e.data.ids for e in past]) if past else ids.new_empty(0)
    for kind, asked, candidates in (
        ("class", wanted, live),
        ("experience", named, known),
        ("class of experience", {f"{c} of {e}" for e, c in parts}, {f"{c} of {e}" for e, c in alive}),
        ("sample", set(ids.tolist()), set(present.tolist()) if len(ids) else set()),
    ):
        if absent := sorted(asked - candidates, key=str):
            shown = ", ".join(map(str, absent[:10]))
            options = f" Alive now: {', '.join(map(str, sorted(candidates, key=str)))}." if kind != "sample" else ""
            raise UserError(f"Cannot forget {kind} {shown}: never learned, or already gone.{options}")
    parts |= {(e, c) for e, c in alive if c in wanted or e in named}
    left = [e.without(ids=ids, cells=parts) for e in past]
    stays = set(origins.cells_of({e.name: e.classes for e in left if e is not None}))
    gone = alive - stays  # a class without samples is forgotten too
    hit = [
        torch.isin(e.data.labels, torch.tensor([c for c in e.classes if (e.name, c) in gone], dtype=torch.int64))
        | torch.isin(e.data.ids, ids)
        for e in past
    ]
    touched = [i for i, h in enumerate(hit) if bool(h.any())]
    return ForgetRequest(
        name,
        tuple(sorted(live - {c for _, c in stays})),
        tuple(past[i].name for i in touched),
        Joined([past[i].data.where(hit[i]) for i in touched]),
        Joined([past[i].reference.where(hit[i]) for i in touched]),
        tuple(e for e in left if e is not None),
        frozenset(missing),
        any(past[i].inherited for i in touched),
        past[0].name,
        frozenset(gone),
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

"""Lineage: the origin of every artifact that a learner holds. `treatments` says what a forget request does to each.

Training is recorded where it happens: a plan names its samples and its parameters, so the state of those parameters has
met those classes. State filed by class and experience names its own origin. A `SampleIndex` names the samples, with two
recorded exceptions: samples that state outlived, and classes read in part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from cl_framework.engine import checkpoint
from cl_framework.engine.learner import Learner
from cl_framework.engine.sample_index import SampleIndex, ids_of, index_of
from cl_framework.memory.exemplars import Memory
from cl_framework.memory.provenance import ReadSamples, TrainedOn
from cl_framework.memory.tensor_store import COUNT, PRISTINE, Key, TensorStore, key_of
from cl_framework.methods.logit_memory import Answers
from cl_framework.models.model import ADAPTERS
from cl_framework.streams import origins as streams_origins
from cl_framework.streams.events import Event
from cl_framework.streams.origins import Cell, Origin

HEAD, READING = "model.head", ".reading.ids."


@dataclass(frozen=True, slots=True)
class Artifact:
    """A part of the learner that may hold learned information.

    Attributes:
        kind: Its kind, such as ``adapter`` or ``prototypes``.
        name: Its name.
        tensors: Its names in the learner's state.
        made: Its sources: first its own samples, then those of the adapter it was computed with.
        cls: The class it belongs to, if to one alone.
        space: The experience in whose adapter's space it was measured, or that it belongs to.
        ids: The samples it holds by id, if it does.
        rows: The samples that it has a row of each.
        columns: The classes that it has a column of each.
        bytes: Its size.
        holder: Its name in `Model.outlived`.
        count: Number of its kind.
    """

    kind: str
    name: str
    tensors: tuple[str, ...]
    made: tuple[TrainedOn, ...] = ()
    cls: int | None = None
    space: str | None = None
    ids: frozenset[int] | None = None
    rows: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    bytes: int = 0
    holder: str = ""
    count: int = 1

    @property
    def origin(self) -> Origin:
        """Cells whose samples went into it."""
        return streams_origins.merge_origins(*(i.origin for i in self.made))


@final
@dataclass(frozen=True, slots=True)
class RecordedOrigins:
    """Origins recorded in a state, from `checkpoint.facts`; ``parts`` by owner, the head under no name."""

    brought: Sequence[Cell]
    origins: Mapping[str, Origin]
    head: Origin
    outlived: Mapping[str, Sequence[str]]
    parts: Mapping[str, Mapping[Cell, frozenset[int]]]

    @classmethod
    def now(cls, learner: Learner) -> RecordedOrigins:
        """Read the records of a learner."""
        model = learner.model
        parts = {name: model.adapters.reading.of(name) for name in model.adapters}
        parts[""] = model.head.reading.of("")
        brought = streams_origins.cells_of(model.brought)
        return cls(brought, model.adapters.origins, model.head.origin, model.outlived, parts)

    def then(self, facts: Mapping[str, Any]) -> RecordedOrigins:
        """Return what was told after an earlier event; what was read in part since then counts as read."""
        origins = {name: streams_origins.cells_of(o) for name, o in facts["origins"].items()}
        brought_before = facts.get("brought") or [(e, [c]) for c, e in facts["known"]]  # all that older runs record
        brought = [(str(e), int(c)) for e, classes in brought_before for c in classes]
        return RecordedOrigins(
            brought, origins, streams_origins.cells_of(facts["head_origin"]), facts.get("outlived", {}), self.parts
        )

    def made(self, tensor: str) -> tuple[TrainedOn, ...]:
        """Return the sources of a tensor of the state."""
        if tensor.startswith(ADAPTERS):
            return (self._adapter(tensor.removeprefix(ADAPTERS).split(".")[0]),)
        if tensor.startswith(f"{HEAD}."):
            return (self._ingredient(self.head, HEAD, ""),)
        if "|" not in tensor:
            return (self._ingredient(tuple(self.brought), tensor),)
        entry = key_of(tensor)
        own = self._ingredient(tuple(self._filed(entry)), tensor)
        if entry.experience is None or entry.name == PRISTINE:
            return (own,)
        return (own, self._adapter(entry.experience)) if entry.experience in self.origins else (own, *self.trained())

    def trained(self) -> tuple[TrainedOn, ...]:
        """Return the cells that plans read, for the adapters and the head."""
        return (*map(self._adapter, self.origins), self._ingredient(self.head, HEAD, ""))

    def _filed(self, entry: Key) -> list[Cell]:
        """Return the source of a key: a class of an experience, or a class in the space of an experience."""
        if entry.cls is None:
            return [(e, c) for e, c in self.brought if entry.experience in (None, e)]
        mine = [cell for cell in self.brought if cell[1] == entry.cls] or [("?", entry.cls)]
        return [cell for cell in mine if cell[0] == entry.experience] or mine

    def _adapter(self, name: str) -> TrainedOn:
        return self._ingredient(self.origins.get(name, ()), ADAPTERS + name, name)

    def _ingredient(self, origin: Origin, holder: str, owner: str | None = None) -> TrainedOn:
        parts = {} if owner is None else self.parts.get(owner, {})
        return TrainedOn(origin, tuple(self.outlived.get(holder, ())), parts)


def artifacts(learner: Learner) -> list[Artifact]:
    """Return everything a learner holds beyond the frozen backbone, with its origin."""
    tensors, facts = checkpoint.tensors(learner), RecordedOrigins.now(learner)
    known = [*_adapters(learner, tensors, facts), *_rows(learner, tensors, facts), *_filed(learner, facts)]
    claimed = {n for a in known for n in a.tensors}
    return known + [
        Artifact("sums" if n.endswith(".gram") else "other", n.removeprefix("strategy."), (n,), facts.made(n),
                 bytes=_size([t]), holder=n)
        for n, t in tensors.items() if n not in claimed
    ]  # fmt: skip


def by_id(learner: Learner) -> tuple[str, ...]:
    """Return the name prefixes of tensors that hold sample ids."""
    parts = ((path, m) for path, m in learner.named_modules() if isinstance(m, Memory | ReadSamples))
    return tuple(f"{path}.ids." for path, _ in parts)


def artifact_samples(artifact: Artifact, stream: Sequence[Event] | SampleIndex) -> frozenset[int]:
    """Return the ids of the training samples that went into an artifact.

    They are exact but in one case: retained samples that an edit read are known one by one, but all forgotten samples
    of its request, or of one that it outlived, count, read or not, since their ids are stored nowhere.

    Args:
        artifact: What `artifacts` found.
        stream: The events that the learner met, in order, or their `SampleIndex`.
    """
    index = stream if isinstance(stream, SampleIndex) else index_of(stream)
    return ids_of(index.resolved(artifact.made)) | (artifact.ids or frozenset())


def _adapters(learner: Learner, tensors: Mapping[str, Tensor], facts: RecordedOrigins) -> Iterator[Artifact]:
    bank = learner.model.adapters
    for name in bank:
        start = f"{ADAPTERS}{name}."
        mine = tuple(n for n in tensors if n.startswith(start))
        kind, size = "edit" if name in bank.stack else "adapter", _size(tensors[n] for n in mine)
        yield Artifact(kind, name, mine, facts.made(start), space=name, bytes=size, holder=ADAPTERS + name)


def _rows(learner: Learner, tensors: Mapping[str, Tensor], facts: RecordedOrigins) -> Iterator[Artifact]:
    head = learner.model.head
    names = tuple(n for n in tensors if n.startswith(f"{HEAD}.") and READING not in n)
    size = head.weight.element_size() * (head.width + (head.bias is not None))
    for c in head.classes:
        yield Artifact("head row", str(c), names, facts.made(f"{HEAD}."), cls=c, bytes=size, holder=HEAD)
    if not head.classes:
        yield Artifact("head", "without rows", names, count=0)


def _filed(learner: Learner, facts: RecordedOrigins) -> Iterator[Artifact]:
    """Yield what tensor stores hold: of a class, and made with the adapter of the experience it is filed under."""
    for path, store in learner.named_modules():
        if not isinstance(store, TensorStore) or not path.startswith(("strategy.", "model.")):
            continue
        reading = path.startswith("model.")
        part = learner.get_submodule(path.rpartition(".")[0])
        by_id = reading or isinstance(part, Memory)
        kind = "lineage" if reading else path.split(".")[1]
        for name, entry in store.named():
            value, tensor = store[entry], f"{path}.{name}"
            yield Artifact(
                kind,
                " in ".join(str(x) for x in (entry.cls, entry.experience) if x is not None),
                (tensor,),
                facts.made(tensor) if not by_id else (),
                entry.cls,
                entry.experience,
                frozenset(value.tolist()) if by_id else None,
                *(part.sides(entry) if isinstance(part, Answers) else (frozenset[int](), frozenset[int]())),
                _size([value]),
                tensor,
                int(entry.name != COUNT),  # the number of samples of a mean is a part of it
            )


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)

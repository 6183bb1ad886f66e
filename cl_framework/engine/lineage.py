"""Lineage: what went into every artifact of a run, hence what a forget request means for each of them.

Training is recorded where it happens: a plan names its samples and its parameters, so whatever holds those parameters
has met those classes. State filed by class and experience says itself where it comes from. Which samples that were, the
stream tells (`census`), with two exceptions on record: samples that something outlived, and classes read in part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

from torch import Tensor

from cl_framework.engine import checkpoint
from cl_framework.engine.learner import Learner
from cl_framework.engine.sample_index import Census, Contents, census, ids_of
from cl_framework.memory.exemplars import Memory
from cl_framework.memory.provenance import Ingredient, Reading
from cl_framework.memory.tensor_store import COUNT, PRISTINE, Key, TensorStore, key_of
from cl_framework.methods.base import Unlearner
from cl_framework.methods.logit_memory import Answers
from cl_framework.models.model import ADAPTERS
from cl_framework.streams import origins as streams_origins
from cl_framework.streams.events import Event, ForgetRequest
from cl_framework.streams.origins import Cell, Origin

Action: TypeAlias = Literal["keep", "delete", "subtract", "retrain", "edit", "rewrite", "redact"]

HEAD, READING = "model.head", ".reading.ids."
NEVER, TOGETHER = "never met what goes", "edited together with the adapters that met what goes"
ACTIONS: dict[str, Action] = {
    "drop": "retrain", "subtract": "subtract", "edit": "edit", "stack": "keep", "rows": "keep",
}  # fmt: skip
WHY = {
    "drop": "made again from what remains of its experience",
    "subtract": "a sum over samples, out of which those that go are taken",
    "edit": "edited in place: what it met is counteracted, not taken out",
}
KEPT = {
    "stack": "stays as it is beside the edit, and still holds what it met",
    "rows": "only rows of the head go; it still holds what it met",
}


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something that may carry what was learned.

    Attributes:
        kind: What it is, such as ``adapter`` or ``prototypes``.
        name: Which of its kind.
        tensors: Its names in the learner's state.
        made: What it was made of: first its own samples, then those of the adapter it was measured with.
        cls: The class it belongs to, if to one alone.
        space: The experience in whose adapter's space it was measured, or that it belongs to.
        ids: The samples it holds by id, if it does.
        rows: The samples that it has a row of each.
        columns: The classes that it has a column of each.
        bytes: Its size.
        holder: Under which name `Model.outlived` speaks of it.
        count: How many of its kind it is.
    """

    kind: str
    name: str
    tensors: tuple[str, ...]
    made: tuple[Ingredient, ...] = ()
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
        """Experience -> classes whose samples went into it."""
        return streams_origins.merged(*(i.origin for i in self.made))


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a request does to an artifact, and why."""

    artifact: Artifact
    action: Action
    why: str


@final
@dataclass(frozen=True, slots=True)
class Told:
    """What a state says of its origins, as `checkpoint.facts` tells it; ``parts`` by owner, the head under no name."""

    brought: Sequence[Cell]
    origins: Mapping[str, Origin]
    head: Origin
    outlived: Mapping[str, Sequence[str]]
    parts: Mapping[str, Mapping[Cell, frozenset[int]]]

    @classmethod
    def now(cls, learner: Learner) -> Told:
        """Ask a learner."""
        model = learner.model
        parts = {name: model.adapters.reading.of(name) for name in model.adapters}
        parts[""] = model.head.reading.of("")
        brought = streams_origins.cells(model.brought)
        return cls(brought, model.adapters.origins, model.head.origin, model.outlived, parts)

    def then(self, facts: Mapping[str, Any]) -> Told:
        """Return what was told after an earlier event; what was read in part since then counts as read."""
        origins = {name: streams_origins.from_json(o) for name, o in facts["origins"].items()}
        told = facts.get("brought") or [(e, [c]) for c, e in facts["known"]]  # all that older runs tell
        brought = [(str(e), int(c)) for e, classes in told for c in classes]
        return Told(
            brought, origins, streams_origins.from_json(facts["head_origin"]), facts.get("outlived", {}), self.parts
        )

    def made(self, tensor: str) -> tuple[Ingredient, ...]:
        """Return what a tensor of the state was made of."""
        if tensor.startswith(ADAPTERS):
            return (self._adapter(tensor.removeprefix(ADAPTERS).split(".")[0]),)
        if tensor.startswith(f"{HEAD}."):
            return (self._ingredient(self.head, HEAD, ""),)
        if "|" not in tensor:
            return (self._ingredient(streams_origins.of(self.brought), tensor),)
        entry = key_of(tensor)
        own = self._ingredient(streams_origins.of(self._filed(entry)), tensor)
        if entry.experience is None or entry.name == PRISTINE:
            return (own,)
        return (own, self._adapter(entry.experience)) if entry.experience in self.origins else (own, *self.trained())

    def trained(self) -> tuple[Ingredient, ...]:
        """Return what plans read: what went into the adapters and the head."""
        return (*map(self._adapter, self.origins), self._ingredient(self.head, HEAD, ""))

    def _filed(self, entry: Key) -> list[Cell]:
        """Return what is filed under an entry: a class of an experience, or a class in the space of an experience."""
        if entry.cls is None:
            return [(e, c) for e, c in self.brought if entry.experience in (None, e)]
        mine = [cell for cell in self.brought if cell[1] == entry.cls] or [("?", entry.cls)]
        return [cell for cell in mine if cell[0] == entry.experience] or mine

    def _adapter(self, name: str) -> Ingredient:
        return self._ingredient(self.origins.get(name, {}), ADAPTERS + name, name)

    def _ingredient(self, made: Origin, holder: str, owner: str | None = None) -> Ingredient:
        parts = {} if owner is None else self.parts.get(owner, {})
        return Ingredient(made, tuple(self.outlived.get(holder, ())), parts)


def artifacts(learner: Learner) -> list[Artifact]:
    """Return everything a learner holds beyond the frozen backbone, with what went into it."""
    tensors, told = checkpoint.tensors(learner), Told.now(learner)
    found = [*_adapters(learner, tensors, told), *_rows(learner, tensors, told), *_filed(learner, told)]
    claimed = {n for a in found for n in a.tensors}
    return found + [
        Artifact("sums" if n.endswith(".gram") else "other", n.removeprefix("strategy."), (n,), told.made(n),
                 bytes=_size([t]), holder=n)
        for n, t in tensors.items() if n not in claimed
    ]  # fmt: skip


def by_id(learner: Learner) -> tuple[str, ...]:
    """Return how the names of those tensors begin that hold sample ids."""
    parts = ((path, m) for path, m in learner.named_modules() if isinstance(m, Memory | Reading))
    return tuple(f"{path}.ids." for path, _ in parts)


def samples(artifact: Artifact, stream: Sequence[Event] | Census) -> frozenset[int]:
    """Return the ids of the training samples that went into an artifact.

    They are exact but in one case: what an edit read of samples that stay is known one by one, but of those that a
    request took, its own or one that it outlived, all count, read or not, for their ids are kept nowhere.

    Args:
        artifact: What `artifacts` found.
        stream: The events that the learner met, in order, or their `census`.
    """
    there = stream if isinstance(stream, Census) else census(stream)
    return ids_of(there.resolved(artifact.made)) | (artifact.ids or frozenset())


def treatments(learner: Learner, event: ForgetRequest, unlearner: Unlearner) -> list[Treatment]:
    """Resolve a request against everything that a learner holds."""
    touched, ids = streams_origins.of(event.taken), frozenset(event.data.ids.tolist())
    left = {e.name for e in event.remaining}
    return [Treatment(a, *_treated(a, event, unlearner, touched, ids, left)) for a in artifacts(learner)]


def outlived(
    learner: Learner, event: ForgetRequest, foretold: Iterable[Treatment], read: Collection[int]
) -> dict[str, tuple[str, ...]]:
    """Return which requests what a learner holds has outlived, once ``event`` is carried out.

    Args:
        learner: In the state after the request.
        event: The request.
        foretold: What it was to do, resolved before.
        read: The samples that it trained on.
    """
    stayed = {t.artifact.holder: t.artifact for t in foretold if t.action not in ("delete", "retrain")}
    found = {holder: old for holder, old in learner.model.outlived.items() if holder in stayed}
    if learner.unlearner is None or learner.unlearner.exact:
        return found
    again = {cell for cell, ids in event.taken.items() if not ids.isdisjoint(read)}
    held = {holder for holder, a in stayed.items() if _holds(a, event.taken)}
    trained = [a for a in artifacts(learner) if a.made and a.holder.startswith("model.")]
    held |= {a.holder for a in trained if not again.isdisjoint(streams_origins.cells(a.made[0].origin))}
    return found | {holder: (*found.get(holder, ()), event.name) for holder in sorted(held)}


def _holds(a: Artifact, taken: Contents) -> bool:
    """Tell whether some of the samples ``taken`` went into an artifact."""
    mine = a.made[0] if a.made else Ingredient({})
    return any(
        cell in taken and taken[cell] & mine.parts.get(cell, taken[cell]) for cell in streams_origins.cells(mine.origin)
    )


def _treated(
    a: Artifact, event: ForgetRequest, unlearner: Unlearner, touched: Origin, ids: frozenset[int], left: set[str]
) -> tuple[Action, str]:
    kept_rows = getattr(unlearner, "keep_rows", False)
    if a.cls in event.classes and not (a.kind in ("head row", "lineage") and kept_rows):
        return "delete", "belongs to a class that goes"
    if (a.space, a.cls) in event.cells and not kept_rows:
        return "delete", "belongs to what an experience brought, and that goes"
    if unlearner.acts == "retrain" and a.kind == "edit":
        return "delete", "what it edited is learned again without it"
    if unlearner.acts == "retrain":
        return "retrain", "everything is learned again from what remains"
    if a.rows & ids or a.columns & set(event.classes):
        return "delete" if a.rows and a.rows <= ids else "edit", "rows and columns of what goes are cut"
    if a.ids is not None:
        whole, some = a.ids <= ids and a.kind != "lineage", bool(a.ids & ids)
        return ("delete" if whole else "edit", "holds samples that go, by id") if some else ("keep", NEVER)
    if not any(a.origin.get(e, frozenset()) & classes for e, classes in touched.items()):
        together = unlearner.acts == "edit" and a.kind == "adapter"
        return ("edit", TOGETHER) if together else ("keep", NEVER)
    if unlearner.acts in ("drop", "subtract") and a.space is not None and a.kind != "sums":
        whole = a.space not in left
        return ("delete", "belongs to an experience that goes as a whole") if whole else ("retrain", WHY["drop"])
    if unlearner.acts == "edit" and a.kind != "adapter":
        return "keep", KEPT["stack"]
    return ACTIONS[unlearner.acts], WHY.get(unlearner.acts) or KEPT[unlearner.acts]


def _adapters(learner: Learner, tensors: Mapping[str, Tensor], told: Told) -> Iterator[Artifact]:
    bank = learner.model.adapters
    for name in bank:
        start = f"{ADAPTERS}{name}."
        mine = tuple(n for n in tensors if n.startswith(start))
        kind, size = "edit" if name in bank.stack else "adapter", _size(tensors[n] for n in mine)
        yield Artifact(kind, name, mine, told.made(start), space=name, bytes=size, holder=ADAPTERS + name)


def _rows(learner: Learner, tensors: Mapping[str, Tensor], told: Told) -> Iterator[Artifact]:
    head = learner.model.head
    names = tuple(n for n in tensors if n.startswith(f"{HEAD}.") and READING not in n)
    size = head.weight.element_size() * (head.width + (head.bias is not None))
    for c in head.classes:
        yield Artifact("head row", str(c), names, told.made(f"{HEAD}."), cls=c, bytes=size, holder=HEAD)
    if not head.classes:
        yield Artifact("head", "without rows", names, count=0)


def _filed(learner: Learner, told: Told) -> Iterator[Artifact]:
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
                told.made(tensor) if not by_id else (),
                entry.cls,
                entry.experience,
                frozenset(value.tolist()) if by_id else None,
                *(part.sides(entry) if isinstance(part, Answers) else (frozenset[int](), frozenset[int]())),
                _size([value]),
                tensor,
                int(entry.name != COUNT),  # how many samples a mean has is a part of it
            )


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)

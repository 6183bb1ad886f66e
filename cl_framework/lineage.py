"""Lineage: what went into every artifact of a run, hence what a forget request means for each of them.

Training is recorded where it happens: a plan names its samples and its parameters, so whatever holds those parameters
has met those classes. State filed by class and experience says itself where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cl_framework import origin, state
from cl_framework.learner import Learner
from cl_framework.ledger import Ledger
from cl_framework.memory import Memory
from cl_framework.origin import Origin
from cl_framework.strategy import Unlearner
from cl_framework.stream import ForgetRequest

Action: TypeAlias = Literal["keep", "delete", "subtract", "retrain", "edit", "rewrite", "redact"]


NEVER = "never met what goes"
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
        origin: Experience -> classes whose samples went into it.
        cls: The class it belongs to, if to one alone.
        space: The experience in whose adapter's space it was measured, or that it belongs to.
        ids: The samples it holds by id, if it does.
        bytes: Its size.
    """

    kind: str
    name: str
    tensors: tuple[str, ...]
    origin: Origin = field(default_factory=dict)
    cls: int | None = None
    space: str | None = None
    ids: frozenset[int] | None = None
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a request does to an artifact, and why."""

    artifact: Artifact
    action: Action
    why: str


def artifacts(learner: Learner) -> list[Artifact]:
    """Return everything a learner holds beyond the frozen backbone, with what went into it."""
    found = [*_adapters(learner), *_rows(learner), *_filed(learner)]
    claimed = {n for a in found for n in a.tensors}
    everything = origin.of(learner.model.known, learner.model.classes)
    return found + [Artifact("sums" if n.endswith(".gram") else "other", n.removeprefix("strategy."), (n,), everything,
                             bytes=t.numel() * t.element_size())
                    for n, t in state.tensors(learner).items() if n not in claimed]  # fmt: skip


def treatments(learner: Learner, event: ForgetRequest, unlearner: Unlearner) -> list[Treatment]:
    """Resolve a request against everything that a learner holds."""
    touched = origin.of(learner.model.known, event.data.classes())
    ids = frozenset(event.data.ids.tolist())
    left = {e.name for e in event.remaining}
    return [Treatment(a, *_treated(a, event, unlearner, touched, ids, left)) for a in artifacts(learner)]


def _treated(
    a: Artifact, event: ForgetRequest, unlearner: Unlearner, touched: Origin, ids: frozenset[int], left: set[str]
) -> tuple[Action, str]:
    if a.cls in event.classes and not (a.kind == "head row" and getattr(unlearner, "keep_rows", False)):
        return "delete", "belongs to a class that goes"
    if unlearner.acts == "retrain" and a.kind == "edit":
        return "delete", "what it edited is learned again without it"
    if unlearner.acts == "retrain":
        return "retrain", "everything is learned again from what remains"
    if a.ids is not None:
        whole, some = a.ids <= ids, bool(a.ids & ids)
        return ("delete" if whole else "edit", "holds samples that go, by id") if some else ("keep", NEVER)
    if not any(a.origin.get(e, frozenset()) & classes for e, classes in touched.items()):
        return "keep", NEVER
    if unlearner.acts == "drop" and a.space is not None and a.space not in left:
        return "delete", "belongs to an experience that goes as a whole"
    if unlearner.acts == "edit" and a.kind != "adapter":
        return "keep", KEPT["stack"]
    return ACTIONS[unlearner.acts], WHY.get(unlearner.acts) or KEPT[unlearner.acts]


def _adapters(learner: Learner) -> Iterator[Artifact]:
    bank, tensors = learner.model.adapters, state.tensors(learner)
    for name in bank:
        start = f"model.adapters.rewrites.{name}."
        mine = tuple(n for n in tensors if n.startswith(start))
        size = sum(tensors[n].numel() * tensors[n].element_size() for n in mine)
        kind = "edit" if name in bank.stack else "adapter"
        yield Artifact(kind, name, mine, bank.origins.get(name, {}), space=name, bytes=size)


def _rows(learner: Learner) -> Iterator[Artifact]:
    head = learner.model.head
    names = tuple(n for n in state.tensors(learner) if n.startswith("model.head."))
    size = head.weight.element_size() * (head.width + (head.bias is not None))
    for c in head.classes:
        yield Artifact("head row", str(c), names, head.origin, cls=c, bytes=size)
    if not head.classes:
        yield Artifact("head", "without rows", names)


def _filed(learner: Learner) -> Iterator[Artifact]:
    """Yield what ledgers hold: of a class, and made with the adapter of the experience it is filed under."""
    model = learner.model
    for path, ledger in learner.strategy.named_modules(prefix="strategy"):
        if not isinstance(ledger, Ledger):
            continue
        memory = isinstance(learner.get_submodule(path.rpartition(".")[0]), Memory)
        kind = path.split(".")[1]
        for name, entry in ledger.named():
            own = {} if entry.cls is None else origin.of(model.known, [entry.cls])
            through = {} if memory else model.adapters.origins.get(entry.experience or "", {})
            value = ledger[entry]
            yield Artifact(
                kind,
                " in ".join(str(x) for x in (entry.cls, entry.experience) if x is not None),
                (f"{path}.{name}",),
                origin.merged(own, through),
                entry.cls,
                entry.experience,
                frozenset(value.tolist()) if memory else None,
                value.numel() * value.element_size(),
            )

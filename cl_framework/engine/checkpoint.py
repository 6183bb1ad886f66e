"""Checkpoints: a learner as named tensors and some JSON, without the frozen backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.storage.typed_records import RESTORE, Count, typed
from cl_framework.streams import origins as streams_origins

FROZEN = "model.backbone."


class Facts(msgspec.Struct, frozen=True):
    """Record of `facts`; an event's ``state`` may hold more."""

    known: list[tuple[int, str]]
    stack: list[str]
    origins: dict[str, dict[str, list[int]]]
    head_origin: dict[str, list[int]]
    passes: dict[str, Count]
    steps: Count
    adapters: list[str] | None = None
    outlived: dict[str, list[str]] = {}
    threads: Count | None = None
    brought: list[tuple[str, list[int]]] | None = None


def tensors(learner: Learner) -> dict[str, Tensor]:
    """Return every tensor that learning may change, by name, on the CPU."""
    return {k: v.detach().cpu() for k, v in learner.state_dict().items() if not k.startswith(FROZEN)}


def facts(learner: Learner) -> dict[str, Any]:
    """Return the state that is not a tensor: live classes and counters."""
    model = learner.model
    return {
        "known": [[c, e] for c, e in model.known.items()],
        "brought": [[e, list(classes)] for e, classes in model.brought.items()],
        "adapters": list(model.adapters),
        "stack": list(model.adapters.stack),
        "origins": {name: streams_origins.to_json(o) for name, o in model.adapters.origins.items()},
        "head_origin": streams_origins.to_json(model.head.origin),
        "outlived": {holder: list(requests) for holder, requests in model.outlived.items()},
        "passes": dict(model.passes),
        "steps": learner.steps,
    }


def restore(
    learner: Learner, tensors: Mapping[str, Tensor], record: Mapping[str, Any], place: Path | str = "The saved state"
) -> None:
    """Restore a learner's state; adapters, rows and entries are created for the tensors.

    Args:
        learner: A new learner.
        tensors: What `tensors` returned.
        record: What `facts` returned.
        place: The file that ``record`` was in, for the message.

    Raises:
        UserError: If a field is missing or of another type, or names adapters without tensors.
    """
    known = typed(record, Facts, place)
    frozen = {k: v for k, v in learner.state_dict().items() if k.startswith(FROZEN)}
    try:
        learner.load_state_dict({**frozen, **tensors})
    except (RuntimeError, ValueError, KeyError) as error:  # torch names the tensors at length
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"The tensors beside {place} do not fit this run's config ({first}); {RESTORE}.") from error
    bank = learner.model.adapters  # files hold tensors in the order of their names, the bank oldest first
    names = list(bank) if known.adapters is None else known.adapters
    if sorted(names) != sorted(bank) or not set(known.stack) <= set(names):
        raise UserError(f"{place} is damaged at adapters: it names others than have tensors; {RESTORE}.")
    arrange(learner, names)
    bank.stack = tuple(known.stack)
    learner.model.adapters.origins = {name: streams_origins.cells_of(o) for name, o in known.origins.items()}
    learner.model.head.origin = streams_origins.cells_of(known.head_origin)
    learner.model.outlived = known.outlived  # missing in older runs
    learner.model.known = dict(known.known)
    learner.model.brought = {}
    for experience, classes in known.brought or [(e, [c]) for c, e in known.known]:  # all that older runs tell
        learner.model.know(experience, classes)
    learner.model.passes = Counter(known.passes)
    learner.steps = known.steps
    learner.requires_grad_(False)
    learner.eval()


@contextmanager
def all_or_nothing(learner: Learner) -> Iterator[None]:
    """Restore a learner if the block fails, so that no class is known that was not learned."""
    device, record = learner.model.device, facts(learner)
    before = {k: v.detach().clone() for k, v in learner.state_dict().items() if not k.startswith(FROZEN)}
    try:
        yield
    except BaseException:
        learner.end()
        restore(learner, before, record)
        learner.to(device)  # Lightning leaves a fitted module on the CPU
        raise


def arrange(learner: Learner, names: Iterable[str]) -> None:
    """Put the adapters ``names`` in this order among their own places; others keep theirs."""
    bank = learner.model.adapters
    wanted = [name for name in dict.fromkeys(names) if name in bank]
    places = iter(wanted)
    order = [next(places) if name in wanted else name for name in bank]
    bank.rewrites = nn.ModuleDict({name: bank.rewrites[name] for name in order})
    bank.origins = {name: bank.origins[name] for name in order if name in bank.origins}


def size_of(learner: Learner) -> int:
    """Return the bytes that the learner stores beyond the backbone."""
    return sum(v.numel() * v.element_size() for v in tensors(learner).values())

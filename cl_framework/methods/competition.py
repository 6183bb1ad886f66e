"""Classes that a new one competes with in training: those of its experience, or all known ones.

A loss among the new classes alone has no gradient if there is only one: adapters stay at their start without notice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cl_framework.methods.base import Strategy
from cl_framework.models.head import Head
from cl_framework.models.model import Model
from cl_framework.streams.events import Event, Experience, ForgetRequest

Compete: TypeAlias = Literal["current", "all"]
"""Classes that a sample competes with: those of its own experience, or all so far."""


@final
class CompetingClasses(NamedTuple):
    """The competing classes of an experience.

    Attributes:
        among: The classes that a sample is told apart from, those of the experience first.
        known: Those of them that were known before.
        hold: Keeps the head's rows of known classes as they are after each step, if any compete: such a row only has
            negatives, and would be pushed away from its class.
    """

    among: tuple[int, ...]
    known: tuple[int, ...]
    hold: Callable[[Model], None] | None


def competing_classes(model: Model, event: Experience, compete: Compete) -> CompetingClasses:
    """Return the competing classes of an experience that is learned with the head."""
    known = other_classes(model, event) if compete == "all" else ()
    return CompetingClasses((*event.classes, *known), known, holding(model, event.classes) if known else None)


def other_classes(model: Model, event: Experience) -> tuple[int, ...]:
    """Return the classes that are known besides those of an experience."""
    return tuple(c for c in model.classes if c not in event.classes)


def in_turn(*acts: Callable[[Model], None] | None) -> Callable[[Model], None]:
    """Return the composition of callbacks, of those there are."""

    def act(model: Model) -> None:
        for one in acts:
            if one is not None:
                one(model)

    return act


def holding(model: Model, classes: Sequence[int]) -> Callable[[Model], None]:
    """Return a callback that restores the head's rows of all but some classes: weight decay moves idle rows too."""
    head = model.head
    idle = [i for i, c in enumerate(head.classes) if c not in classes]
    kept = [None if p is None else p.detach()[idle].clone() for p in (head.weight, head.bias)]

    @torch.no_grad()
    def put_back(model: Model) -> None:
        for p, was in zip((model.head.weight, model.head.bias), kept, strict=True):
            if p is not None and was is not None:
                p[idle] = was.to(p)

    return put_back


def proxy_scores(proxy: Head, rows: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Return scores of a proxy head ``(n, classes + k)`` beside fixed rows of known classes.

    Args:
        proxy: Head of the new classes; a cosine one scores the rows by cosine with its own scale.
        rows: ``(k, width)`` means or weights of known classes.
        bias: ``(k,)`` of a linear head.
    """
    fixed = rows.detach().clone()

    def scores(z: Tensor) -> Tensor:
        if proxy.sigma is not None:
            old = proxy.sigma * normalize(z, dim=-1) @ normalize(fixed, dim=-1).T.to(z)
        else:
            old = z @ fixed.T.to(z) + (0 if bias is None else bias.to(z))
        return torch.cat([proxy(z), old.to(z)], 1)

    return scores


def separation_loss(rows: Tensor, temperature: float = 0.8) -> Tensor:
    """Return the cross-entropy of finding each of ``rows`` ``(k, width)`` by its inner products with all of them."""
    return cross_entropy(rows @ rows.T / temperature, torch.arange(len(rows), device=rows.device))


def training_warnings(strategy: Strategy, events: Iterable[Event], known: Collection[int] = ()) -> list[str]:
    """Return a sentence on each kind of experience that training can learn nothing from, since it brings one class.

    Args:
        strategy: The strategy; `Strategy.competes` names the classes of its loss.
        events: Coming experiences.
        known: Classes alive before them.
    """
    if strategy.competes is None:
        return []
    alive, first, alone = set(known), "", list[str]()
    for event in events:
        if isinstance(event, ForgetRequest):
            alive -= set(event.classes)
            continue
        if len(event.classes) == 1 and not event.inherited:
            if not alive - set(event.classes):
                first = first or event.name
            elif strategy.competes == "new" and not strategy.trains_first_only:
                alone.append(event.name)
        alive |= set(event.classes)
    name, warnings = type(strategy).__name__, []
    if first:
        warnings.append(
            f"{first} brings one class and nothing is known before it: {name} has nothing to tell it from, and its "
            "adapters learn nothing; begin with two classes or more."
        )
    if alone:
        warnings.append(
            f"{_each_bring_one(alone)}, and {name} as it is set tells new classes from one another only: such a loss "
            f"has no gradient, and adapters stay as they start; set `--model.strategy.{strategy.widens}` to train "
            "against what is known, or bring two classes at a time."
        )
    return warnings


def _each_bring_one(names: Sequence[str]) -> str:
    """Return the clause about experiences of one class each.

    >>> _each_bring_one(["task-1"]), _each_bring_one(["a", "b", "c", "d", "e"])
    ('task-1 brings one class', 'a, b, c and 2 more bring one class each')
    """
    if len(names) == 1:
        return f"{names[0]} brings one class"
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return f"{', '.join(shown[:-1])} and {shown[-1]} bring one class each"

"""Forget requests as users write them, and their insertion into a stream of experiences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from cl_framework.errors import UserError, did_you_mean
from cl_framework.streams import Experience, ForgetRequest, Need, Step, class_ids, exam_of, forget_request, sample_ids


@final
@dataclass(frozen=True)
class Request:
    """What to forget, and when.

    Attributes:
        after: Number of experiences learned before it, or the name of the last one.
        classes: Class ids or names.
        experiences: Names of experiences, or their places in the stream, the first being 0.
        samples: Ids of training samples, or the path of a text file of ids; in the config of a run, keyed hashes.
        cells: Experiences (by name or place), each with one of its classes: that cell only.
        missing: Sets that are not available at the time of the request: ``forget`` or ``retain``.
    """

    after: str | int
    classes: list[str | int] = field(default_factory=list)
    experiences: list[str | int] = field(default_factory=list)
    samples: list[int | str] | str = field(default_factory=list)
    cells: list[list[str | int]] = field(default_factory=list)
    missing: list[Need] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a single value in place of a list.

        Raises:
            UserError: If there is one.
        """
        for name in ("classes", "experiences", "cells", "missing"):
            if isinstance(given := getattr(self, name), str) or not isinstance(given, Iterable):
                raise UserError(f"{name} of a Request must be a list; found {given!r}, so write {name}=[{given!r}].")


def with_requests(
    steps: Sequence[Step], requests: Sequence[Request], class_names: Sequence[str], key: bytes | None = None
) -> list[Step]:
    """Insert each request at its place; those at the same place keep their order.

    Every request is resolved before the first step is taken, so that a mistake is reported before any training. They
    are named ``forget-0``, ``forget-1``, ... as they happen.

    Args:
        steps: Experiences and their test samples.
        requests: What to forget, and when.
        class_names: Name of each class id.
        key: What keyed hashes of sample ids were made with.

    Raises:
        UserError: If a request asks for what is not there, or stands at a place that does not exist.
    """
    names = [s.event.name for s in steps]
    places = [place(r.after, names) for r in requests]
    mixed: list[Step] = []
    past: list[Experience] = []
    for done, step in enumerate(steps, 1):
        mixed.append(step)
        past += [step.event] if isinstance(step.event, Experience) else []
        for request in (r for r, p in zip(requests, places, strict=True) if p == done):
            event = _resolved(request, f"forget-{len(mixed) - done}", past, names, class_names, key)
            mixed.append(Step(event, exam_of(event, [s.exam for s in steps[:done]])))
            past = list(event.remaining)
    return mixed


def _resolved(
    request: Request,
    name: str,
    past: Sequence[Experience],
    names: Sequence[str],
    class_names: Sequence[str],
    key: bytes | None,
) -> ForgetRequest:
    classes = class_ids(request.classes, class_names)
    experiences = [names[position(e, names)] for e in request.experiences]
    if wrong := [c for c in request.cells if len(c) != 2]:
        raise UserError(f"A forget request takes cells as [experience, class]; found {wrong[0]}.")
    cells = [(names[position(e, names)], class_ids([c], class_names)[0]) for e, c in request.cells]
    known = [i for e in past for i in e.data.ids.tolist()] if key else []
    samples = sample_ids(request.samples, known, key)
    return forget_request(name, past, classes, experiences, samples, request.missing, cells)


def place(after: int | str, names: Sequence[str]) -> int:
    """Return how many experiences have been learned when a request comes.

    >>> place(1, ["task-0", "task-1"]), place("task-1", ["task-0", "task-1"])
    (1, 2)

    Raises:
        UserError: If the stream has no such place.
    """
    if isinstance(after, int) and not 1 <= after <= len(names):
        raise UserError(f"A forget request stands after {after} of {len(names)} experiences; choose 1 to {len(names)}.")
    return after if isinstance(after, int) else position(after, names) + 1


def position(wanted: int | str, names: Sequence[str]) -> int:
    """Return the place of an experience in the stream, the first being 0.

    Raises:
        UserError: If there is no such experience.
    """
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    if isinstance(wanted, str):
        raise UserError(f"The stream has no experience {wanted!r}. {did_you_mean(wanted, names)}")
    if not 0 <= wanted < len(names):
        raise UserError(f"The stream has no experience number {wanted}; choose 0 to {len(names) - 1}.")
    return wanted

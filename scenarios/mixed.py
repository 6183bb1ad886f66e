"""Any stream with forget requests put anywhere in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from torch import Tensor

from cl_framework.errors import UserError, did_you_mean
from cl_framework.naming import class_ids, sample_ids
from cl_framework.stream import Experience, ForgetRequest, Scenario, Step, exam_of, forget


@final
@dataclass(frozen=True)
class Request:
    """What to forget, and when.

    Attributes:
        after: How many experiences have been learned by then, or the name of the last one.
        classes: Class ids or names.
        experiences: Names of experiences, or their places in the stream, the first being 0.
        samples: Ids of training samples, or the path of a text file of ids; in the config of a run, keyed hashes of ids.
    """

    after: str | int
    classes: list[str | int] = field(default_factory=list)
    experiences: list[str | int] = field(default_factory=list)
    samples: list[int | str] | str = field(default_factory=list)


@final
class Mixed(Scenario):
    """Puts forget requests into a stream; those at the same place stand in the order given.

    Every request is resolved before the first step, so that a mistake shows before hours of training.

    Args:
        stream: A scenario of experiences only.
        requests: What to forget, and when; they are named ``forget-0``, ``forget-1``, ... as they happen.

    Raises:
        UserError: On first use, if a request asks for what is not there, or stands at a place that does not exist.
    """

    def __init__(self, stream: Scenario, requests: list[Request]) -> None:
        """Keep both."""
        self.stream, self.requests = stream, requests
        self._key: bytes | None = None

    def unlock(self, key: bytes) -> None:
        """Take the key under which sample ids are hidden in the config of a run."""
        self._key = key

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # the stream's, read on first use
        """What each class id is called."""
        return self.stream.class_names

    def fingerprint(self) -> str:
        """Return a hash of the data behind the stream."""
        return self.stream.fingerprint()

    def read(self, files: Sequence[str]) -> Tensor:
        """Read input files as the stream would."""
        return self.stream.read(files)

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, and each request where it belongs."""
        return iter(self._mixed(list(self.stream.steps())))

    def _mixed(self, steps: Sequence[Step]) -> list[Step]:
        if any(isinstance(s.event, ForgetRequest) for s in steps):
            raise UserError("Mixed takes a stream of experiences only; list all forget requests in one Mixed.")
        names = [s.event.name for s in steps]
        places = [place(r.after, names) for r in self.requests]
        mixed: list[Step] = []
        past: list[Experience] = []
        for done, step in enumerate(steps, 1):
            mixed.append(step)
            past += [step.event] if isinstance(step.event, Experience) else []
            for request in (r for r, p in zip(self.requests, places, strict=True) if p == done):
                event = self._resolved(request, f"forget-{len(mixed) - done}", past, names)
                mixed.append(Step(event, exam_of(event, [s.exam for s in steps[:done]])))
                past = list(event.remaining)
        return mixed

    def _resolved(self, request: Request, name: str, past: Sequence[Experience], names: Sequence[str]) -> ForgetRequest:
        classes = class_ids(request.classes, self.class_names)
        experiences = [names[position(e, names)] for e in request.experiences]
        there = [i for e in past for i in e.data.ids.tolist()] if self._key else []
        samples = sample_ids(request.samples, there, self._key)
        return forget(name, past, classes, experiences, samples)


def place(after: int | str, names: Sequence[str]) -> int:
    """Return how many experiences have been learned when a request comes.

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

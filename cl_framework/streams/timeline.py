"""A run's whole stream: what its config says, and what was asked of it later."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import msgspec

from cl_framework.streams.events import (
    Event,
    Experience,
    ForgetRequest,
    Need,
    Scenario,
    Step,
    exam_of,
    forget,
    surviving,
)
from cl_framework.streams.identifiers import sample_ids
from cl_framework.streams.identity import Register, hidden_as
from cl_framework.streams.samples import Relabelled


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later forget request, as an event's record holds it."""

    classes: list[int | str] = []
    experiences: list[str] = []
    samples: list[int | str] = []
    missing: list[Need] = []
    cells: list[tuple[str, int]] = []


class Later(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later request, as an event's record holds it: what to forget, or arguments that describe what to learn.

    Attributes:
        forget: What to forget.
        learn: Arguments that describe a scenario.
        data: The fingerprint of its data.
        as_new: What stands before the names of the classes that it brings, so that none is one that is known.
        ids: Class ids of each experience that it brings. What was forgotten has no name any more to find them by.
        again: New ids of classes that had been forgotten, each with the id before.
    """

    forget: Asked | None = None
    learn: list[str] | None = None
    data: str | None = None
    as_new: str | None = None
    ids: list[list[int]] | None = None
    again: list[tuple[int, int]] = []


@final
class Timeline(Scenario):
    """A scenario followed by later requests.

    Args:
        first: What the config says.
        later: Later requests in order, each ``{"forget": {"classes": ..., "experiences": ..., "samples": ...}}``
            or ``{"learn": [arguments that describe a scenario], "data": its fingerprint, "as_new": what stands before
            the names of its classes, if anything}``.
        streams: The scenarios that the learn requests describe, in order.
        key: What keyed hashes of sample ids were made with; the first scenario and the streams are given it too.
    """

    def __init__(
        self,
        first: Scenario,
        later: Sequence[Mapping[str, Any]] = (),
        streams: Sequence[Scenario] = (),
        key: bytes | None = None,
    ) -> None:
        """Keep the parts."""
        self.first, self.later, self.streams, self.key = first, list(later), list(streams), key
        for stream in (first, *self.streams) if key else ():
            stream.unlock(key or b"")
        self.numbers: dict[int, tuple[list[list[int]], list[tuple[int, int]]]] = {}  # as `Later` tells ids and again
        self.offsets = {-1: 0}  # by later request, what is added to its sample ids; known once its steps were met

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # of later streams, found while they are walked
        """What each class id is called that was ever given."""
        register = self._register()
        if self.streams:
            deque(self._walk(register), maxlen=0)
        return register.names

    def steps(self) -> Iterator[Step]:
        """Yield the first scenario's steps, then those of each later request."""
        return (step for _, step in self.marked())

    def marked(self) -> Iterator[tuple[int, Step]]:
        """Yield each step with the position of the later request it belongs to; -1 for the first scenario.

        Raises:
            UserError: If two live classes would bear one name, or a request cannot be resolved.
        """
        return self._walk(self._register())

    def _register(self) -> Register:
        return Register(self.first.class_names, self.hidden)

    def hidden(self, name: str) -> list[str]:
        """Return what may stand for a class's name in `class_names` once the class is forgotten."""
        return hidden_as(name, self.key, [p for spec in self.later if (p := spec.get("as_new"))])

    def _walk(self, register: Register) -> Iterator[tuple[int, Step]]:
        """Yield the same, and have ``register`` know what each class is called and which are alive."""
        seen: list[Step] = []
        for origin, step in self._parts(seen, register):
            event = step.event
            if isinstance(event, Experience):
                known = origin < 0 or "ids" not in self.later[origin]
                register.learned(event.classes, event.name, unique=known)
            else:
                register.forgotten(event.classes)
            seen.append(step)
            yield origin, step

    def _parts(self, seen: list[Step], register: Register) -> Iterator[tuple[int, Step]]:
        """Yield the same; later requests look back at what the caller has ``seen``."""
        yield from ((-1, step) for step in self.first.steps())
        streams, brought = iter(self.streams), list[set[str]]()  # names of experiences, learn request by learn request
        for i, spec in enumerate(self.later):
            learned = [s for s in seen if isinstance(s.event, Experience)]
            if "forget" in spec:
                event = self._request(f"forget-{len(seen) - len(learned)}", surviving(seen), spec["forget"])
                yield i, Step(event, exam_of(event, [s.exam for s in learned]))
                continue
            stream = next(streams)
            # An id is never given twice, not even that of a forgotten sample: receipts speak of it.
            ids = 1 + max((int(s.event.data.ids.max()) for s in learned if len(s.event.data)), default=-1)
            self.offsets[i] = ids
            alive = {e.name for e in surviving(seen)}
            nth, draws = len(brought), sum(not alive.isdisjoint(names) for names in brought)
            brought.append(set())
            classes = _Numbers(register, stream, spec)
            self.numbers[i] = [], []
            for step in stream.steps():
                told = step.event.name
                moved = _moved(step, f"more-{nth}-{told}", classes, ids, surviving(seen), f"more-{draws}-{told}")
                brought[-1].add(moved.event.name)
                if isinstance(moved.event, Experience):
                    known = _recognised(moved.event, register, spec)
                    self.numbers[i][0].append(list(known.classes))
                    self.numbers[i][1].extend(known.relearned.items())
                    moved = Step(known, moved.exam)
                yield i, moved

    def _request(self, name: str, past: Sequence[Experience], spec: Mapping[str, Any]) -> ForgetRequest:
        asked = dict(spec)
        if "samples" in asked:
            asked["samples"] = sample_ids(asked["samples"], [i for e in past for i in e.data.ids.tolist()], self.key)
        return forget(name, past, **{**asked, "cells": [(e, c) for e, c in asked.get("cells", ())]})

    def settled(self) -> Timeline:
        """Return the same whose last learn request tells which ids it gives, so that no name is asked again.

        Raises:
            UserError: If two live classes would bear one name, or a request cannot be resolved.
        """
        deque(self.steps(), maxlen=0)
        ids, again = self.numbers[len(self.later) - 1]
        last = {**self.later[-1], "ids": ids, **({"again": [list(pair) for pair in again]} if again else {})}
        return Timeline(self.first, [*self.later[:-1], last], self.streams, self.key)

    def fingerprint(self) -> str:
        """Return the hash of the first scenario's data."""
        return self.first.fingerprint()


@final
class _Numbers:
    """Gives classes of a later stream, by name, the ids of the whole stream."""

    def __init__(self, register: Register, stream: Scenario, spec: Mapping[str, Any]) -> None:
        self.register, self.stream, self.prefix = register, stream, spec.get("as_new") or ""
        self._known: dict[int, int] = {}
        self._given = None if spec.get("ids") is None else iter(spec["ids"])

    def __call__(self, event: Event, name: str) -> Mapping[int, int]:
        if isinstance(event, Experience):
            names = [self.prefix + self.stream.class_names[c] for c in event.classes]
            if self._given is None:
                ids = self.register.ids_for(names, name)
            else:
                ids = self.register.given(next(self._given, []), names, name)
            self._known |= zip(event.classes, ids, strict=True)
        return dict(self._known)


def _recognised(event: Experience, register: Register, spec: Mapping[str, Any]) -> Experience:
    """Mark the classes of an experience that have the name of one forgotten earlier, unless another bears it."""
    told = {c: old for c, old in spec.get("again", ()) if c in event.classes}
    again = told if spec.get("ids") is not None else register.before(event.classes)
    return dataclasses.replace(event, relearned={**event.relearned, **again})


def _moved(step: Step, name: str, numbers: _Numbers, ids: int, past: Sequence[Experience], dice: str) -> Step:
    """Give a later stream's classes, samples and events names of their own."""
    event = step.event
    classes = numbers(event, name)
    if isinstance(event, Experience):
        moved = dataclasses.replace(
            event,
            name=name,
            classes=tuple(classes[c] for c in event.classes),
            data=Relabelled(event.data, classes, ids),
            reference=Relabelled(event.reference, classes, ids),
            inherited={classes[c]: row for c, row in event.inherited.items()},
            relearned={classes[new]: classes[old] for new, old in event.relearned.items()},
            seed_name=dice,
        )
        return Step(moved, Relabelled(step.exam, classes, ids))
    gone, samples = [classes[c] for c in event.classes], (event.data.ids + ids).tolist()
    again = forget(name, past, gone, (), samples, event.missing)
    return Step(again, again.reference if again.single else Relabelled(step.exam, classes, ids))

"""A run's whole stream: what its config says, and what was asked of it later."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, final

import msgspec

from cl_framework.naming import sample_ids
from cl_framework.stream import (
    Event,
    Experience,
    ForgetRequest,
    Need,
    Relabelled,
    Scenario,
    Step,
    exam_of,
    forget,
    surviving,
)

RULES = 2
"""By these, later experiences draw the dice that they would draw had what is forgotten never been met."""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later forget request, as an event's record holds it."""

    classes: list[int | str] = []
    experiences: list[str] = []
    samples: list[int | str] = []
    missing: list[Need] = []


class Later(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later request, as an event's record holds it: what to forget, or arguments that describe what to learn.

    Attributes:
        forget: What to forget.
        learn: Arguments that describe a scenario.
        data: The fingerprint of its data.
        rules: How names are given to what it brings; `RULES` now, 1 in runs of earlier versions.
    """

    forget: Asked | None = None
    learn: list[str] | None = None
    data: str | None = None
    rules: Literal[1, 2] = 1


@final
class Timeline(Scenario):
    """A scenario followed by later requests.

    Args:
        first: What the config says.
        later: Later requests in order, each ``{"forget": {"classes": ..., "experiences": ..., "samples": ...}}``
            or ``{"learn": [arguments that describe a scenario], "data": its fingerprint, "rules": RULES}``.
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
        """Keep the parts; new classes are numbered after all earlier ones."""
        self.first, self.later, self.streams, self.key = first, list(later), list(streams), key
        for stream in (first, *self.streams) if key else ():
            stream.unlock(key or b"")
        self.offsets = {-1: 0}  # by later request, what is added to its sample ids; known once its steps were met
        self.class_names = [n for s in (first, *self.streams) for n in s.class_names]

    def steps(self) -> Iterator[Step]:
        """Yield the first scenario's steps, then those of each later request."""
        return (step for _, step in self.marked())

    def marked(self) -> Iterator[tuple[int, Step]]:
        """Yield each step with the position of the later request it belongs to; -1 for the first scenario."""
        seen: list[Step] = []
        for origin, step in self._parts(seen):
            seen.append(step)
            yield origin, step

    def _parts(self, seen: list[Step]) -> Iterator[tuple[int, Step]]:
        """Yield the same; later requests look back at what the caller has ``seen``."""
        yield from ((-1, step) for step in self.first.steps())
        classes, streams = len(self.first.class_names), iter(self.streams)
        brought: list[set[str]] = []  # names of experiences, learn request by learn request
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
            alive, kept = {e.name for e in surviving(seen)}, spec.get("rules", 1) > 1
            nth, draws = (len(brought), sum(not alive.isdisjoint(names) for names in brought)) if kept else (i, i)
            brought.append(set())
            for step in stream.steps():
                told = step.event.name
                moved = _shifted(step, f"more-{nth}-{told}", classes, ids, surviving(seen), f"more-{draws}-{told}")
                brought[-1].add(moved.event.name)
                yield i, dataclasses.replace(moved, event=self._recognised(moved.event, seen))
            classes += len(stream.class_names)

    def _request(self, name: str, past: Sequence[Experience], spec: Mapping[str, Any]) -> ForgetRequest:
        asked = dict(spec)
        if "samples" in asked:
            asked["samples"] = sample_ids(asked["samples"], [i for e in past for i in e.data.ids.tolist()], self.key)
        return forget(name, past, **asked)

    def _recognised(self, event: Event, seen: Sequence[Step]) -> Event:
        """Mark the classes of an experience that have the name of one forgotten earlier, unless another bears it."""
        if not isinstance(event, Experience):
            return event
        ever = [c for s in seen if isinstance(s.event, Experience) for c in s.event.classes]
        alive = {c for e in surviving(seen) for c in e.classes}
        taken = {self.class_names[c] for c in alive}
        before = {self.class_names[c]: c for c in ever if c not in alive}
        names = {c: self.class_names[c] for c in event.classes}
        again = {c: before[n] for c, n in names.items() if n in before and n not in taken}
        return dataclasses.replace(event, relearned={**event.relearned, **again})

    def fingerprint(self) -> str:
        """Return the hash of the first scenario's data."""
        return self.first.fingerprint()


def _shifted(step: Step, name: str, classes: int, ids: int, past: Sequence[Experience], dice: str) -> Step:
    """Give a later stream's classes, samples and events names of their own."""
    event = step.event
    if isinstance(event, Experience):
        moved = dataclasses.replace(
            event,
            name=name,
            classes=tuple(c + classes for c in event.classes),
            data=Relabelled(event.data, classes, ids),
            reference=Relabelled(event.reference, classes, ids),
            inherited={c + classes: row for c, row in event.inherited.items()},
            relearned={new + classes: old + classes for new, old in event.relearned.items()},
            seed_name=dice,
        )
        return Step(moved, Relabelled(step.exam, classes, ids))
    gone, samples = [c + classes for c in event.classes], (event.data.ids + ids).tolist()
    again = forget(name, past, gone, (), samples, event.missing)
    return Step(again, again.reference if again.single else Relabelled(step.exam, classes, ids))

"""A run's whole stream: what its config says, and what was asked of it later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

from cl_framework.stream import Experience, Relabelled, Samples, Scenario, Step, exam_of, forget


@final
class Timeline(Scenario):
    """A scenario followed by later requests.

    Args:
        first: What the config says.
        later: Later requests in order, each ``{"forget": {"classes": ..., "experiences": ..., "samples": ...}}``
            or ``{"learn": [arguments that describe a scenario]}``.
        streams: The scenarios that the learn requests describe, in order.
    """

    def __init__(self, first: Scenario, later: Sequence[Mapping[str, Any]] = (), streams: Sequence[Scenario] = ()) -> None:
        """Keep the parts; new classes are numbered after all earlier ones."""
        self.first, self.later, self.streams = first, list(later), list(streams)
        self.class_names = [n for s in (first, *self.streams) for n in s.class_names]

    def steps(self) -> Iterator[Step]:
        """Yield the first scenario's steps, then those of each later request."""
        return (step for _, step in self.marked())

    def marked(self) -> Iterator[tuple[int, Step]]:
        """Yield each step with the position of the later request it belongs to; -1 for the first scenario."""
        past: list[Experience] = []
        exams: list[Samples] = []
        forgotten = 0
        for origin, step in self._parts(past, exams, lambda: forgotten):
            if isinstance(step.event, Experience):
                past.append(step.event)
                exams.append(step.exam)
            else:
                past[:] = step.event.remaining
                forgotten += 1
            yield origin, step

    def _parts(
        self, past: list[Experience], exams: list[Samples], forgotten: Callable[[], int]
    ) -> Iterator[tuple[int, Step]]:
        """Yield the same, reading what happened so far from the lists that the caller keeps."""
        yield from ((-1, step) for step in self.first.steps())
        classes, streams = len(self.first.class_names), iter(self.streams)
        for i, spec in enumerate(self.later):
            if "forget" in spec:
                asked = spec["forget"]
                event = forget(
                    f"forget-{forgotten()}", past, asked.get("classes", ()), asked.get("experiences", ()), asked.get("samples", ())
                )
                yield i, Step(event, exam_of(event, exams))
                continue
            stream = next(streams)
            ids = 1 + max((int(e.data.ids.max()) for e in past), default=-1)
            for step in stream.steps():
                yield i, _shifted(step, f"more-{i}-{step.event.name}", classes, ids, past)
            classes += len(stream.class_names)

    def fingerprint(self) -> str:
        """Return the hash of the first scenario's data."""
        return self.first.fingerprint()


def _shifted(step: Step, name: str, classes: int, ids: int, past: Sequence[Experience]) -> Step:
    """Give a later stream's classes, samples and events names of their own."""
    event = step.event
    if isinstance(event, Experience):
        moved = dataclasses.replace(
            event, name=name, classes=tuple(c + classes for c in event.classes),
            data=Relabelled(event.data, classes, ids), reference=Relabelled(event.reference, classes, ids),
        )  # fmt: skip
        return Step(moved, Relabelled(step.exam, classes, ids))
    again = forget(
        name, past, [c + classes for c in event.classes], (),
        () if event.classes else (event.data.ids + ids).tolist(),
    )  # fmt: skip
    return Step(again, again.reference if again.single else Relabelled(step.exam, classes, ids))

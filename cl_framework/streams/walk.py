"""A stream resolved as far as it has been met: a config's scenario, then one later request after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from cl_framework.streams.events import Event, Experience, Step, exam_of, forget_request, surviving
from cl_framework.streams.identifiers import sample_ids
from cl_framework.streams.identity import Register
from cl_framework.streams.later import Later, LaterRequest
from cl_framework.streams.samples import Relabelled
from cl_framework.streams.scenario import Scenario, checked_steps


@final
class Walk:
    """The steps of a stream so far, and what the next request has to know of them.

    Args:
        register: What each class id is called, before anything was met.

    Attributes:
        marked: Each step with the position of the later request it belongs to; -1 for the first scenario.
        requests: How many later requests were met.
        streams: How many of them are learn requests.
        numbers: By learn request, the class ids of each of its experiences, and new ids of classes forgotten before.
        offsets: By learn request, what is added to its sample ids; nothing is added to those of the first scenario, -1.
        before: The same before it was extended.
    """

    def __init__(self, register: Register, before: Walk | None = None) -> None:
        """Begin, or go on where ``before`` ends, which stays as it is."""
        self.register, self.before, self.requests = register, before, 0
        self.marked: list[tuple[int, Step]] = []
        self.numbers: dict[int, tuple[list[list[int]], list[tuple[int, int]]]] = {}
        self.offsets = {-1: 0}
        self._brought: list[set[str]] = []  # names of experiences, learn request by learn request
        if before is not None:
            self.requests, self.marked, self.numbers = before.requests, [*before.marked], {**before.numbers}
            self.offsets, self._brought = {**before.offsets}, [*before._brought]

    @property
    def streams(self) -> int:
        """Count the learn requests."""
        return len(self._brought)

    @property
    def steps(self) -> list[Step]:
        """The steps alone."""
        return [step for _, step in self.marked]

    def longer(self, hide: Callable[[str], Iterable[str]]) -> Walk:
        """Return a walk that goes on from here.

        Args:
            hide: What stands for a class's name once the class is forgotten.
        """
        return Walk(self.register.copy(hide), self)

    def begin(self, first: Scenario) -> None:
        """Meet the steps of the first scenario.

        Raises:
            UserError: If two live classes would have one name, or a request cannot be resolved.
        """
        for step in checked_steps(first):
            self._meet(-1, step)

    def forget(self, asked: LaterRequest, key: bytes | None) -> None:
        """Resolve a forget request against what is left.

        Args:
            asked: What to forget.
            key: What keyed hashes of sample ids were made with.

        Raises:
            UserError: If it cannot be resolved.
        """
        steps = self.steps
        learned, past = [s for s in steps if isinstance(s.event, Experience)], surviving(steps)
        known = [i for e in past for i in e.data.ids.tolist()] if asked.samples else []
        samples, name = sample_ids(asked.samples, known, key), f"forget-{len(steps) - len(learned)}"
        event = forget_request(name, past, asked.classes, asked.experiences, samples, asked.missing, asked.cells)
        self._meet(self.requests, Step(event, exam_of(event, [s.exam for s in learned])))
        self.requests += 1

    def learn(self, spec: Later, stream: Scenario) -> None:
        """Meet the steps of a learn request under names and ids of their own.

        Args:
            spec: The request.
            stream: What it describes.

        Raises:
            UserError: If two live classes would have one name, or a request in it cannot be resolved.
        """
        steps, nth = self.steps, len(self._brought)
        # An id is never given twice, not even that of a forgotten sample: receipts speak of it.
        met = [s.event.data.ids for s in steps if isinstance(s.event, Experience) and len(s.event.data)]
        ids = 1 + max((int(each.max()) for each in met), default=-1)
        alive, names, numbers = (
            {e.name for e in surviving(steps)},
            set[str](),
            (list[list[int]](), list[tuple[int, int]]()),
        )
        draws = sum(not alive.isdisjoint(brought) for brought in self._brought)
        self._brought.append(names)
        self.offsets[self.requests], self.numbers[self.requests] = ids, numbers
        classes = _Numbers(self.register, stream, spec)
        for step in checked_steps(stream):
            name = step.event.name
            past = surviving(self.steps)
            moved = _moved(step, f"more-{nth}-{name}", classes, ids, past, f"more-{draws}-{name}")
            names.add(moved.event.name)
            if isinstance(moved.event, Experience):
                known = _recognised(moved.event, self.register, spec)
                numbers[0].append(list(known.classes))
                numbers[1].extend(known.relearned.items())
                moved = Step(known, moved.exam)
            self._meet(self.requests, moved, unique=spec.ids is None)
        self.requests += 1

    def _meet(self, origin: int, step: Step, unique: bool = True) -> None:
        event = step.event
        if isinstance(event, Experience):
            self.register.learned(event.classes, event.name, unique)
        else:
            self.register.forgotten(event.classes)
        self.marked.append((origin, step))


@final
class _Numbers:
    """Gives classes of a later stream, by name, the ids of the whole stream."""

    def __init__(self, register: Register, stream: Scenario, spec: Later) -> None:
        self.register, self.stream, self.prefix = register, stream, spec.as_new or ""
        self._known: dict[int, int] = {}
        self._given = None if spec.ids is None else iter(spec.ids)

    def __call__(self, event: Event, name: str) -> Mapping[int, int]:
        if isinstance(event, Experience):
            names = [self.prefix + self.stream.class_names[c] for c in event.classes]
            if self._given is None:
                ids = self.register.ids_for(names, name)
            else:
                ids = self.register.given(next(self._given, []), names, name)
            self._known |= zip(event.classes, ids, strict=True)
        return dict(self._known)


def _recognised(event: Experience, register: Register, spec: Later) -> Experience:
    """Mark the classes of an experience that have the name of one forgotten earlier, unless another bears it."""
    recorded = {c: old for c, old in spec.again if c in event.classes}
    again = recorded if spec.ids is not None else register.before(event.classes)
    return dataclasses.replace(event, relearned={**event.relearned, **again})


def _moved(step: Step, name: str, numbers: _Numbers, ids: int, past: Sequence[Experience], seed_source: str) -> Step:
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
            seed_name=seed_source,
        )
        return Step(moved, Relabelled(step.exam, classes, ids))
    gone, samples = [classes[c] for c in event.classes], (event.data.ids + ids).tolist()
    again = forget_request(name, past, gone, (), samples, event.missing)
    return Step(again, again.reference if again.single else Relabelled(step.exam, classes, ids))

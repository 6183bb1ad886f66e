"""Learn, forget, and learn the same classes again under new ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import final

from cl_framework.errors import UserError
from cl_framework.streams import Experience, Joined, Relabelled, Scenario, Step, class_ids
from scenarios.derived import Derived
from scenarios.requests import Request, place, with_requests


@final
class ForgetThenRelearn(Derived, Scenario):
    """Forgets classes and learns them again later; choose it to measure what forgetting left behind.

    The classes come back as new classes, in one experience.

    New ids come after all others, the names stay. State under an old id is then of no use, so that learning faster than
    a new class is a sign of what was left behind.

    Args:
        stream: A scenario of experiences only.
        classes: Ids or names of the classes.
        forget_after: How many experiences have been learned by then, or the name of the last one; all if None.
        relearn_after: The same for learning again.

    Raises:
        UserError: On first use, if a class is not known when forgotten, or comes back before it is forgotten.
    """

    def __init__(
        self,
        stream: Scenario,
        classes: list[int | str],
        forget_after: int | str | None = None,
        relearn_after: int | str | None = None,
    ) -> None:
        """Keep the settings."""
        self.stream, self.classes = stream, classes
        self.forget_after, self.relearn_after = forget_after, relearn_after

    @cached_property
    def old(self) -> tuple[int, ...]:
        """The ids of the classes before they are forgotten."""
        return tuple(dict.fromkeys(class_ids(self.classes, self.stream.class_names)))

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # the stream's, read on first use
        """What each class id is called: names of the classes that come back occur twice."""
        names = self.stream.class_names
        return [*names, *(names[c] for c in self.old)]

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, the request, and the experience that brings the classes back."""
        steps = self.lessons()
        names = [s.event.name for s in steps]
        leave, back = (place(len(steps) if p is None else p, names) for p in (self.forget_after, self.relearn_after))
        if back < leave:
            raise UserError(f"Classes that leave after {leave} experiences cannot be back after {back}.")
        known = {c for s in steps[:leave] for c in s.event.classes}
        if later := [(s.event.name, c) for s in steps[leave:] for c in self.old if c in known & {*s.event.classes}]:
            name, c = later[0]
            raise UserError(
                f"{name!r} brings class {c} again after it is forgotten, so it cannot come back under a new id, too; "
                "choose classes that come before forget_after only."
            )
        new = {c: len(self.stream.class_names) + i for i, c in enumerate(self.old)}
        again = renumbered("relearn-0", steps[:back], new)
        request = Request(leave, classes=[*self.old])
        return iter(with_requests([*steps[:back], again, *steps[back:]], [request], self.class_names))


def renumbered(name: str, steps: Sequence[Step], new: dict[int, int]) -> Step:
    """Return the step that brings classes of earlier steps again, under other ids; sample ids stay.

    Args:
        name: Name of the experience.
        steps: Experiences and their test samples.
        new: The new id of each class that comes back.
    """
    events = [s.event for s in steps if isinstance(s.event, Experience)]
    relearned = {now: old for old, now in new.items()}
    event = replace(
        events[0],
        name=name,
        classes=tuple(relearned),
        data=Relabelled(Joined([e.data.of(new) for e in events]), new),
        reference=Relabelled(Joined([e.reference.of(new) for e in events]), new),
        inherited={},
        relearned=relearned,
    )
    return Step(event, Relabelled(Joined([s.exam.of(new) for s in steps]), new))

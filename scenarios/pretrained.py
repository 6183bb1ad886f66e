"""A stream that begins with the classes of a pre-trained classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

from cl_framework.errors import UserError
from cl_framework.streams import Experience, Scenario, Step
from scenarios.derived import Derived


@final
class Pretrained(Derived, Scenario):
    """Counts the backbone's own classes as learned; choose it to forget what pre-training taught.

    Treats the first experience as known: its classes are rows of the backbone's own pre-trained classifier.

    Nothing is learned for it; head rows are copied. With `ForgetSequence` around it this is the protocol of GS-LoRA:
    forgetting without learning first. Needs a strategy with a shared head, of the classifier's kind (`model.head`).

    Args:
        stream: A scenario of experiences only.
        rows: The classifier's row for each class id of the first experience; the id itself if None.

    Raises:
        UserError: On first use, if a class of the first experience has no row.
    """

    def __init__(self, stream: Scenario, rows: dict[int, int] | None = None) -> None:
        """Keep both."""
        self.stream, self.rows = stream, rows

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, the first one marked."""
        first, *later = self.lessons()
        event = first.event
        assert isinstance(event, Experience)
        rows = {c: c for c in event.classes} if self.rows is None else self.rows
        if missing := [c for c in event.classes if c not in rows]:
            raise UserError(f"Pretrained is given no row for class {missing[0]}; name the row of every class, or none.")
        return iter([Step(replace(event, inherited={c: rows[c] for c in event.classes}), first.exam), *later])

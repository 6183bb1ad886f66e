"""Delete the head's rows only: the weakest unlearning that never predicts the class again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from cl_framework.methods import Plan, Strategy, Unlearner, remove_forgotten
from cl_framework.models import Model
from cl_framework.streams import ForgetRequest


@final
class HeadRows(Unlearner):
    """Deletes the head's rows and nothing else; choose it as the weakest baseline. Approximate.

    Remove the rows of forgotten classes from the head. Reads no samples.

    All that the adapters learned of the class stays, and a new row recovers it: the baseline of any edit
    in an audit, though its accuracy on forgotten classes is zero.
    """

    acts = "rows"

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse requests for samples whose class stays."""
        partly = set(event.data.labels.tolist()) - set(event.classes)
        return "it deletes rows of classes, and of these samples the class stays" if partly else None

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Remove the classes."""
        remove_forgotten(model, strategy, event)
        yield from ()

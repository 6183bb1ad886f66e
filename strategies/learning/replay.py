"""Experience replay: finetuning on new samples and exemplars.

Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 2019.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from cl_framework.memory import Memory
from cl_framework.methods import Plan, Strategy
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs, Joined


@final
class Replay(Strategy):
    """Trains on new and stored old samples together; choose it as the simplest baseline with a memory.

    Train the shared adapter and head on new samples and exemplars, over every class so far.

    Args:
        per_class: How many exemplars to keep of each class, drawn when its experience ends (20, as is usual for
            pre-trained models); None keeps all, which is `Joint`.
    """

    repeats = True

    def __init__(self, per_class: int | None = 20) -> None:
        """Start without exemplars."""
        super().__init__()
        self.memory = Memory(per_class)

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train on both, then store some of the new samples."""
        data = Joined([self.memory.all(), event.data]) if self.memory else event.data
        yield Plan(data, model.ready("shared", event.classes))
        self.memory.keep(event)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the shared adapter and head."""
        return model.scores(x, "shared")

"""The ``data:`` section of a config. `engine.learner` has ``model:``, Lightning has ``trainer:``."""

from __future__ import annotations

from typing import final

from pytorch_lightning import LightningDataModule

from cl_framework.settings import ranges
from cl_framework.streams.scenario import Scenario


@final
class Data(LightningDataModule):
    """The ``data:`` section of a config.

    Args:
        scenario: The stream of requests, and the data in it.
        batch_size: Samples per training step.
        validation: Share of the samples of each stretch of training to hold out: their loss is logged as ``val_loss``
            after every epoch, and EarlyStopping or ReduceLROnPlateau may watch it. Statistics use all samples.
    """

    def __init__(self, scenario: Scenario, batch_size: int = 48, validation: float = 0.0) -> None:
        """Keep all three."""
        super().__init__()
        ranges.check_numbers({"data.batch_size": batch_size, "data.validation": validation})
        self.scenario, self.batch_size, self.validation = scenario, batch_size, validation

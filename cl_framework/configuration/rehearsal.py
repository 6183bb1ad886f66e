"""A trainer section tried out on a stand-in before anything runs: what cannot work with our plans shows at once.

The stand-in has what a plan has: a frozen backbone, something to train, the optimiser and the schedule of the config,
a loss that is logged. Callbacks, clipping, precision and limits meet it as they would meet the learner.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, final

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cl_framework.engine.trainers import MakeTrainer, quiet
from cl_framework.errors import UserError, unforeseen

EPOCHS = 12
"""Most epochs to try: enough for what begins late, such as thawing a backbone."""


def rehearse(make_trainer: MakeTrainer, configure: Callable[[Any, int], Any], validates: bool) -> None:
    """Train the stand-in as a plan is trained.

    Args:
        make_trainer: Builds the trainers of a run; loggers may not be real ones.
        configure: Returns the optimiser and schedule for parameters and a number of epochs.
        validates: Whether plans have a validation loss.

    Raises:
        UserError: If a part of the trainer section cannot work, naming it.
    """
    stand_in, batches = _StandIn(configure), DataLoader(TensorDataset(torch.ones(4, 4)), batch_size=2)
    frozen = stand_in.state_dict()["model.backbone.weight"].clone()
    with quiet(), isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer = make_trainer(None)
            if trainer.max_epochs is None or trainer.max_epochs > EPOCHS:
                trainer = make_trainer(EPOCHS)
            trainer.fit(stand_in, batches, batches if validates else None)
        except (UserError, KeyboardInterrupt):
            raise
        except SystemExit as stopped:  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from stopped
        except Exception as error:
            raise UserError(_hinted(unforeseen.mendable(error) or unforeseen.error_sentence(error))) from error
    kept = dict(stand_in.named_parameters()).get("model.backbone.weight")
    if kept is None or kept.requires_grad or not torch.equal(kept.detach().cpu(), frozen):
        names = ", ".join(type(c).__name__ for c in trainer.callbacks)  # type: ignore[attr-defined]
        raise UserError(f"The frozen backbone would be changed by one of the callbacks {names}; leave it out.")


def _hinted(sentence: str) -> str:
    """Add what to do where the message of a library does not know it."""
    sentence = sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
    if "val_loss" in sentence:
        return f"{sentence} A plan has a validation loss where data.validation is above 0, such as 0.1."
    if "logger" in sentence.lower():
        return f"{sentence} Set trainer.logger to one, such as CSVLogger, or leave it out."
    return sentence


@final
class _StandIn(LightningModule):
    def __init__(self, configure: Callable[[Any, int], Any]) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"backbone": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
        self.model["backbone"].requires_grad_(False)
        self.configure, self.last = configure, torch.zeros(())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return a loss."""
        loss = self._loss(batch)
        self.last = loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        """Log a loss."""
        self.log("loss", self.last, logger=False)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log a validation loss."""
        loss = self._loss(batch)
        self.log("val_loss", loss, on_step=False, on_epoch=True, logger=False, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """Optimise as the config says."""
        return self.configure(list(self.model["head"].parameters()), self.trainer.max_epochs or 1)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.model["head"](self.model["backbone"](batch[0])).square().mean()
        return loss

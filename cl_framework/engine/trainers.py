"""Lightning trainers of the loop: new for each plan, one progress bar per request, quiet."""

from __future__ import annotations

import copy
import logging
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from cl_framework.errors import UserError
from cl_framework.streams.samples import Batch

MakeTrainer: TypeAlias = Callable[[int | None], Trainer]


def fresh_trainers(build: Callable[..., Trainer], bar: RequestBar | None, **fixed: Any) -> MakeTrainer:
    """Return a maker of trainers from a configured ``build``.

    Args:
        build: Instantiates a trainer from the configuration, accepting overrides.
        bar: Shown while each plan trains.
        fixed: Overrides for every trainer, such as the one logger of a run.
    """

    def make(epochs: int | None) -> Trainer:
        with quiet():
            trainer = build(**fixed, **({} if epochs is None else {"max_epochs": epochs}))
        # Lightning hands every trainer the same callback objects; their state must not leak from plan to plan.
        trainer.callbacks[:] = [copy.deepcopy(c) for c in trainer.callbacks]  # type: ignore[attr-defined]
        if bar is not None:
            trainer.callbacks.append(bar)  # type: ignore[attr-defined]
        return trainer

    return make


def fitted(
    trainer: Trainer, learner: LightningModule, request: str, train: DataLoader[Batch], held: DataLoader[Batch] | None
) -> int:
    """Train a plan of ``request``, and return the number of steps.

    Args:
        trainer: A new one.
        learner: With a plan begun.
        request: Its name, for the message.
        train: Training batches.
        held: Held-out batches for the loss after each epoch, if any.

    Raises:
        UserError: If no step was taken.
        KeyboardInterrupt: If the user pressed Ctrl-C.
    """
    with quiet():
        try:
            trainer.fit(learner, train, held)
        except SystemExit as stopped:  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from stopped
    if trainer.global_step == 0:
        raise UserError(
            f"Nothing was trained for {request!r}: no step was taken. Check trainer.max_epochs and its limits."
        )
    return trainer.global_step


@final
class OnAxis(Logger):
    """A logger of a whole run: it replaces a trainer's step by the run's.

    Args:
        inner: The logger.
        now: Returns the run's step.
    """

    def __init__(self, inner: Logger, now: Callable[[], int]) -> None:
        """Keep both."""
        super().__init__()
        self.inner, self.now = inner, now

    @property
    def name(self) -> str | None:
        """That of the logger."""
        return self.inner.name

    @property
    def version(self) -> int | str | None:
        """That of the logger."""
        return self.inner.version

    @property
    def save_dir(self) -> str | None:
        """That of the logger."""
        return self.inner.save_dir

    @property
    def log_dir(self) -> str | None:
        """That of the logger."""
        return self.inner.log_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers at the run's step."""
        self.inner.log_metrics(metrics, step=self.now())

    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        """Log settings of the run, not of a plan."""
        self.inner.log_hyperparams(params, *args, **options)

    def finalize(self, status: str) -> None:
        """Write what was logged: the end of a plan is not that of the run."""
        self.inner.save()

    def __getattr__(self, name: str) -> Any:
        """Return what else the logger has, such as its ``experiment``."""
        return getattr(self.__dict__["inner"], name)


@final
class RequestBar(Callback):
    """A progress bar for each stretch of training, labelled with the request it belongs to.

    Attributes:
        label: Text of the bar.
    """

    def __init__(self, console: Console) -> None:
        """Draw on ``console``."""
        self.console, self.label = console, ""
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=self.console)
        self._bar.start()
        self._task = self._bar.add_task(self.label, total=int(trainer.estimated_stepping_batches), loss="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by a step."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, loss=f"loss {float(outputs['loss']):.3f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the terminal."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's messages at every fit, and warnings that do not apply to short fits."""
    logs = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*torch.utils._pytree.*|.*LeafSpec.*")
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def peak_memory() -> int:
    """Return the most memory used so far, in bytes: of the GPU if there is one in use, else of the process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024  # Linux counts kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

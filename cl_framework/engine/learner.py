"""The LightningModule: a model, a strategy and an unlearner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from cl_framework.adapters.base import Adapter
from cl_framework.adapters.peft import Peft
from cl_framework.adapters.peft_families import PeftConfig
from cl_framework.adapters.sizes import check_size
from cl_framework.backbones.base import Backbone
from cl_framework.engine.kinds import check_kinds
from cl_framework.engine.schedules import scheduled
from cl_framework.errors import UserError
from cl_framework.methods.base import Params, Plan, Strategy, Unlearner
from cl_framework.methods.compatibility import check_adapter
from cl_framework.models.compute import AS_EVER, Compute
from cl_framework.models.finite import LOWER, check_scores
from cl_framework.models.model import Model
from cl_framework.settings import ranges
from cl_framework.settings.recorded import Recorded
from cl_framework.streams.lazy_inputs import Inputs, inputs
from cl_framework.streams.samples import Batch, Samples, Subset


@final
class Learner(Recorded, LightningModule):
    """The ``model:`` section of a config.

    Args:
        backbone: Frozen feature extractor.
        adapter: Family of the adapters, or a config of the peft library.
        strategy: The learning method.
        unlearner: The unlearning method.
        optimizer: Optimiser, unless a plan has its own.
        schedule: How the learning rate of a plan falls from epoch to epoch, unless the plan says otherwise: ``cosine``
            to zero, ``quarter_cosine`` slowly at first and to 1 % in the last of E epochs (``cos(99 pi e / (200 (E -
            1)))``, as InfLoRA was released), ``constant`` never, or by a scheduler of torch's such as ``MultiStepLR``.
        head: Scores of the shared head, for strategies that use it.
        compute: Options that save time or memory.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | PeftConfig,
        strategy: Strategy,
        unlearner: Unlearner | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.025, momentum=0.9, weight_decay=5e-4),
        schedule: Literal["cosine", "quarter_cosine", "constant"] | LRSchedulerCallable = "cosine",
        head: Literal["linear", "cosine"] = "linear",
        compute: Compute = AS_EVER,
    ) -> None:
        """Assemble the parts.

        Raises:
            UserError: If a part is of another kind, the strategy cannot work with such adapters, or a number is out of
                its range.
        """
        super().__init__()
        check_kinds({"backbone": backbone, "adapter": adapter, "strategy": strategy, "unlearner": unlearner})
        built = adapter if isinstance(adapter, Adapter) else Peft(adapter)
        ranges.check_parts({"adapter": built, "strategy": strategy, "unlearner": unlearner})
        if not isinstance(built, Peft):  # whose layers start from the weights they wrap
            check_size(built, backbone)
        self.model = Model(backbone, built, head)
        check_adapter(self.model, strategy)
        self.compute = compute
        compute.prepare(backbone, self.model.adapters)
        self.strategy, self.unlearner = strategy, unlearner
        self.optimizer, self.schedule = optimizer, schedule
        self.plan: Plan | None = None
        self.request = ""
        self.steps = self.events = 0
        self._epoch: list[Tensor] = []
        self._read = 0
        self._rates: list[float] = []

    @property
    def now(self) -> int:
        """The point on the axis of loggers: training steps and events so far."""
        return self.steps + self.events

    def forward(self, x: Inputs) -> Tensor:
        """Return the strategy's scores over live classes.

        Raises:
            UserError: If they have another shape than ``(n, classes)``, or one is NaN.
        """
        scores = self.strategy.predict(self.model, x)
        return check_scores(scores, type(self.strategy).__name__, len(x), len(self.model.classes))

    @torch.no_grad()
    def answer(self, samples: Samples, batch: int = 256, ranked: bool = False) -> Tensor:
        """Return the predicted class id ``(n,)`` of each sample; if ``ranked``, all, best first ``(n, classes)``."""
        self.eval()
        self.model.phase = "evaluate"
        alive = torch.tensor(self.model.classes)
        order = torch.arange(len(samples))
        if self.model.adapters.adapter.together:  # a protocol in which predictions depend on the batch
            place = {c: i for i, c in enumerate(self.model.classes)}
            order = torch.tensor([place.get(c, len(place)) for c in samples.labels.tolist()]).argsort(stable=True)
            samples = Subset(samples, order)
        scores = (self(x) for x in inputs(samples.on(self.model.device), batch))
        answers = [(z.argsort(dim=1, descending=True, stable=True) if ranked else z.argmax(1)).cpu() for z in scores]
        self.model.phase = "statistics"
        return alive[torch.cat(answers)[order.argsort()]] if answers else alive.new_empty(0)

    def begin(self, plan: Plan, request: str = "") -> None:
        """Begin a plan: exactly its parameters may change; messages name the ``request`` it is trained for."""
        self.plan, self.request = plan, request
        self.requires_grad_(False)
        for p in plan.parameters():
            p.requires_grad_(True)
        self.train()  # Lightning keeps the modes it finds; the bank lets only what is trained leave evaluation mode
        self.model.phase = "train"

    def end(self) -> None:
        """Freeze everything again."""
        self.plan = None
        self.requires_grad_(False)
        self.eval()
        self.model.phase = "statistics"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the current plan's loss."""
        plan, given = self._plan(), Batch(*batch)
        loss = plan.loss(self.model, given)
        if not bool(torch.isfinite(loss)):
            self._explain(given, loss.item())
        self._epoch.append(loss.detach() * len(given.y))
        self._read += len(given.y)
        return loss

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's mean."""
        self._epoch, self._read = [], 0

    def on_train_epoch_end(self) -> None:
        """Give callbacks and schedules the mean loss of the epoch; loggers get every step."""
        self.log("loss", torch.stack(self._epoch).sum() / self._read, logger=False)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compute the current plan's loss on held-out samples."""
        given = Batch(*batch)
        with torch.enable_grad():  # which some losses need within themselves
            loss = self._plan().loss(self.model, given).detach()
        self.log("val_loss", loss, on_step=False, on_epoch=True, logger=False, batch_size=len(given.y))

    def on_validation_epoch_end(self) -> None:
        """Log the loss on held-out samples of the plan."""
        self._tell({"val_loss": float(self.trainer.callback_metrics["val_loss"])})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the plan's edit of gradients."""
        if (edit := self._plan().edit_gradients) is not None:
            edit(self.model)
        self._rates = [g["lr"] for g in optimizer.param_groups]  # a schedule changes them before the batch ends

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Call the plan's ``after_step``, and log on an axis that continues from plan to plan."""
        if (act := self._plan().after_step) is not None:
            act(self.model)
        self.steps += 1
        due = self.steps % getattr(self.trainer, "log_every_n_steps", 50) == 0  # few plans of small data are as long
        if self.trainer.loggers and (due or self.trainer.is_last_batch):
            rates = {f"lr-{i}" if i else "lr": float(rate) for i, rate in enumerate(self._rates)}
            self._tell({"loss": float(outputs["loss"]), **rates})

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the current plan's parameters."""
        plan = self._plan()
        return self.optimisation(plan.params, self.trainer.max_epochs or 1, plan.optimizer, plan.schedule)

    def optimisation(
        self,
        params: Params,
        epochs: int,
        optimizer_of: Callable[[Params], torch.optim.Optimizer] | None = None,
        schedule_of: str | None = None,
    ) -> Any:
        """Return an optimiser and its schedule in Lightning's form.

        Args:
            params: Parameters.
            epochs: Number of epochs.
            optimizer_of: Replaces the configured one.
            schedule_of: Replaces the configured one.
        """
        optimizer = (optimizer_of or self.optimizer)(params)
        ranges.check_numbers(optimizer.defaults, type(optimizer).__name__)
        self.compute.fuse(optimizer)
        return scheduled(optimizer, schedule_of or self.schedule, epochs)

    def _tell(self, metrics: dict[str, float]) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.now)

    def _plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("The learner trains plans only; call `loop.carry_out` instead of `fit`.")
        return self.plan

    def _explain(self, batch: Batch, loss: float) -> None:
        bad, rate = ~torch.isfinite(batch.x.flatten(1)).all(1), self.trainer.optimizers[0].param_groups[0]["lr"]
        advice = "lower that of the strategy or unlearner, which sets its own" if self._plan().optimizer else LOWER
        problem = (
            f"samples {batch.ids[bad].tolist()} hold NaN or infinity"
            if bool(bad.any())
            else f"the inputs are finite, so the learning rate is probably too high (now {rate:g}); {advice}"
        )
        raise UserError(
            f"The loss is {loss} in training {self.request!r}, on the batch of samples {batch.ids.tolist()[:16]}: "
            f"{problem}. Nothing of it was kept; the run is as it was before this request."
        )

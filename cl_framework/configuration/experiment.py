"""From a config to the parts that it describes, built and ready to run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from rich.console import Console

from cl_framework import threads
from cl_framework.configuration import parser
from cl_framework.configuration.rehearsal import rehearse
from cl_framework.engine.learner import Learner
from cl_framework.engine.tracking import flat
from cl_framework.engine.trainers import MakeTrainer, OnAxis, RequestBar, fresh_trainers
from cl_framework.errors import UserError
from cl_framework.streams.scenario import Scenario

CORES = torch.get_num_threads()
"""Threads that torch chooses by itself: one for each core."""
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def _check_trainer(trainer: Trainer) -> None:
    """Refuse what would break a promise: a frozen backbone, one process that writes a run, no file that it forgets."""
    if str(trainer.precision) in ("16-true", "bf16-true", "64-true"):
        raise UserError(f"trainer.precision {trainer.precision} would change the frozen backbone; use bf16-mixed.")
    if trainer.num_devices * trainer.num_nodes > 1:
        raise UserError("A run is carried out by one process on one device; set trainer.devices to 1.")
    if trainer.checkpoint_callbacks:
        raise UserError(parser.CHECKPOINTS)


@final
@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything a config asks for, built.

    Attributes:
        config: What really runs, as YAML with every default filled in.
        run_dir: Where the user wants the run, if said.
        features: Directory of features that runs share, if they do.
        features_limit: Most GiB to keep there.
        seed: From which every event's seed is derived.
        loggers: Told what happens.
        validation: Share of each plan's samples to hold out.
        trial: Why what comes out is no result; None if it is one.
        skip_unreadable: Whether to go on without samples that cannot be read.
        changes: Options that change the optimiser from now on, beside the config.
    """

    learner: Learner
    scenario: Scenario
    make_trainer: MakeTrainer
    bar: RequestBar
    batch_size: int
    config: str
    run_dir: str | None
    features: Path | None
    features_limit: float
    seed: int
    loggers: tuple[Logger, ...] = ()
    validation: float = 0.0
    trial: str | None = None
    skip_unreadable: bool = False
    changes: tuple[str, ...] = ()


def build(args: Sequence[str], console: Console) -> Experiment:
    """Parse arguments and config files, and build what they describe.

    Raises:
        UserError: If a key, class or value is wrong, saying which and what would be right.
    """
    cli = parser.parsed_config(args)
    _check_trainer(cli.trainer)
    config: Any = cli.config
    bar = RequestBar(console)
    learner, data, loggers = cli.model, cli.datamodule, tuple(cli.trainer.loggers)
    quick = getattr(cli.trainer, "fast_dev_run", False)
    shown = [OnAxis(logger, lambda: learner.now) for logger in loggers]
    make = fresh_trainers(cli.instantiate_trainer, bar, **({"logger": shown} if loggers and not quick else {}))
    stand_ins = {"logger": [DummyLogger() for _ in loggers]} if loggers and not quick else {}
    rehearse(fresh_trainers(cli.instantiate_trainer, None, **stand_ins), learner.optimisation, data.validation > 0)
    seed = config.seed_everything
    if config.skip_unreadable:
        cli.datamodule.scenario.skip_unreadable()
    if config.features:  # requests may come from another working directory, and must find it
        config.features = str(Path(config.features).expanduser().absolute())
    size = sum(p.numel() for p in cli.model.model.backbone.parameters())
    torch.set_num_threads(threads.wanted(size, CORES, config.threads))
    cli.model.model.precision = MIXED.get(str(cli.trainer.precision))
    cli.model.model.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else 0
    return Experiment(
        cli.model,
        cli.datamodule.scenario,
        make,
        bar,
        cli.datamodule.batch_size,
        _written(cli),
        config.run_dir,
        Path(config.features) if config.features else None,
        config.features_limit,
        cli.model.model.seed,
        loggers if not quick else (),
        data.validation,
        f"trainer.fast_dev_run {quick}" if quick else None,
        config.skip_unreadable,
    )


def resolve(args: Sequence[str]) -> str:
    """Return the config that arguments and files amount to, as YAML with every default filled in; build nothing.

    Raises:
        UserError: If a key, class or value is wrong, saying which and what would be right.
    """
    return _written(parser.parsed_config(args, build=False))


def _written(cli: LightningCLI) -> str:
    """Return a config as YAML that can be read again.

    Raises:
        UserError: If a setting is an object that cannot be written as text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is looked for here
        text = str(cli.parser.dump(cli.config, skip_none=False))
    if lost := [
        f"{key} ({v.rpartition(' ')[2]})" for key, v in flat(yaml.safe_load(text)).items() if parser.LOST in str(v)
    ]:
        raise UserError(f"A run's config cannot hold {', '.join(lost)}; give it as text or a number, or null.")
    return text

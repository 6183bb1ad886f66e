"""From a config to the parts that it describes, built and ready to run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from rich.console import Console

from cl_framework import threads
from cl_framework.configuration import parser
from cl_framework.configuration.rehearsal import rehearse
from cl_framework.configuration.sections import Data
from cl_framework.engine.learner import Learner
from cl_framework.engine.tracking import flat
from cl_framework.engine.trainers import MakeTrainer, OnAxis, RequestBar, fresh_trainers, quiet
from cl_framework.errors import UserError, unforeseen
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
        seed: From which every event's seed is derived.
        config: What really runs, as YAML with every default filled in; nothing where objects were given in Python.
        run_dir: Where the user wants the run, if said.
        features: Directory of features that runs share, if they do.
        features_limit: Most GiB to keep there.
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
    seed: int
    config: str = ""
    run_dir: str | None = None
    features: Path | None = None
    features_limit: float = 10.0
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
    config: Any = cli.config
    if config.skip_unreadable:
        cli.datamodule.scenario.skip_unreadable()
    if config.features:  # requests may come from another working directory, and must find it
        config.features = str(Path(config.features).expanduser().absolute())
    given, seed = config.seed_everything, 0
    if isinstance(given, int) and not isinstance(given, bool):
        seed = given
    plain = assemble(cli.model, cli.datamodule, cli.instantiate_trainer, cli.trainer, console, seed, config.threads)
    return replace(
        plain,
        config=_written(cli),
        run_dir=config.run_dir,
        features=Path(config.features) if config.features else None,
        features_limit=config.features_limit,
        skip_unreadable=config.skip_unreadable,
    )


def assemble(
    learner: Learner,
    data: Data,
    trainer_of: Callable[..., Trainer],
    trainer: Trainer,
    console: Console,
    seed: int,
    asked_threads: int | None,
) -> Experiment:
    """Put built parts together, and try out the trainer on a stand-in.

    Args:
        learner: The model and its strategies.
        data: The stream, and how it is read.
        trainer_of: Builds a trainer, accepting overrides.
        trainer: One that it built.
        console: Where a bar is shown while a plan trains.
        seed: From which every event's seed is derived.
        asked_threads: CPU threads, if someone asked for a number.

    Raises:
        UserError: If the trainer would break a promise or cannot work.
    """
    _check_trainer(trainer)
    bar, loggers, quick = RequestBar(console), tuple(trainer.loggers), getattr(trainer, "fast_dev_run", False)
    shown = [OnAxis(logger, lambda: learner.now) for logger in loggers]
    make = fresh_trainers(trainer_of, bar, **({"logger": shown} if loggers and not quick else {}))
    stand_ins = {"logger": [DummyLogger() for _ in loggers]} if loggers and not quick else {}
    rehearse(fresh_trainers(trainer_of, None, **stand_ins), learner.optimisation, data.validation > 0)
    size = sum(p.numel() for p in learner.model.backbone.parameters())
    torch.set_num_threads(threads.wanted(size, CORES, asked_threads))
    learner.model.frozen.precision = MIXED.get(str(trainer.precision))
    learner.model.seed = seed
    return Experiment(
        learner=learner,
        scenario=data.scenario,
        make_trainer=make,
        bar=bar,
        batch_size=data.batch_size,
        seed=seed,
        loggers=loggers if not quick else (),
        validation=data.validation,
        trial=f"trainer.fast_dev_run {quick}" if quick else None,
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


def of_objects(
    learner: Learner, data: Data, options: Mapping[str, Any], console: Console, seed: int, asked_threads: int | None
) -> Experiment:
    """Return the experiment of objects that were made in Python, as `build` returns that of a config.

    Args:
        learner: The model and its strategies.
        data: The stream, and how it is read.
        options: Those of Lightning's trainer beside `parser.TRAINER_DEFAULTS`.
        console: Where a bar is shown while a plan trains.
        seed: From which every event's seed is derived.
        asked_threads: CPU threads, if someone asked for a number.

    Raises:
        UserError: If the trainer takes no such options, would break a promise or cannot work.
    """
    trainer_of = partial(Trainer, **{**parser.TRAINER_DEFAULTS, **options})
    with quiet():
        set_seed(seed)
        try:
            first = trainer_of()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"Lightning's trainer does not take these options: {error}") from error
        except Exception as error:  # of Lightning's own, such as that there is no GPU
            if sentence := unforeseen.mendable(error):
                raise UserError(sentence) from error
            raise
    return assemble(learner, data, trainer_of, first, console, seed, asked_threads)


def set_seed(seed: int) -> None:
    """Seed everything, as it is seeded before a config is built."""
    seed_everything(seed, workers=True, verbose=False)

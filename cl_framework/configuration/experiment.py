"""From a config to its parts, with stock LightningCLI: ``model:``, ``data:`` and ``trainer:`` sections."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import jsonargparse
import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional
from jsonargparse.typing import PositiveFloat, PositiveInt
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from rich.console import Console

from cl_framework import threads
from cl_framework.configuration import shipped, shorthand
from cl_framework.configuration.messages import explain
from cl_framework.configuration.rehearsal import rehearse
from cl_framework.engine.learner import Learner
from cl_framework.engine.tracking import flat
from cl_framework.engine.trainers import MakeTrainer, OnAxis, RequestBar, fresh_trainers, quiet
from cl_framework.errors import UserError, unforeseen
from cl_framework.evaluation.published import Published
from cl_framework.settings import discovery, ranges, trust
from cl_framework.streams.events import Scenario

_DESCRIPTION = """Run a stream of learn and forget requests from config files and flags.

Files given by --config merge, later ones win, flags win over files; --print_config shows the result.
`clf list strategies` names what can stand in model.strategy, and likewise for the other parts;
--model.strategy.help EASE explains one of them."""
TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "deterministic": True,
    "num_sanity_val_steps": 0,
}


SKIP = "--skip_unreadable"
"""Says that samples which cannot be read are left out."""
CORES = torch.get_num_threads()
"""Threads that torch chooses by itself: one for each core."""
LOST = "Unable to serialize instance"
"""What stands in a written config for an object that has no text."""
CHECKPOINTS = (
    "Lightning's checkpoints would keep what a forget request must remove, and a run stores each event itself; "
    "set trainer.enable_checkpointing to false and leave out ModelCheckpoint."
)
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def _check_trainer(trainer: Trainer) -> None:
    """Refuse what would break a promise: a frozen backbone, one process that writes a run, no file that it forgets."""
    if str(trainer.precision) in ("16-true", "bf16-true", "64-true"):
        raise UserError(f"trainer.precision {trainer.precision} would change the frozen backbone; use bf16-mixed.")
    if trainer.num_devices * trainer.num_nodes > 1:
        raise UserError("A run is carried out by one process on one device; set trainer.devices to 1.")
    if trainer.checkpoint_callbacks:
        raise UserError(CHECKPOINTS)


def _sections() -> dict[str, list[str]]:
    made_of = {"model": Learner, "data": Data, "trainer": Trainer}
    return {k: [p for p in inspect.signature(c).parameters if p != "self"] for k, c in made_of.items()}


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


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Directory of the run; runs/NAME when not given."
        )
        parser.add_argument(
            "--features",
            type=str | None,
            default=os.environ.get("CLF_FEATURES") or None,
            help="Directory where runs find each other's features; by default $CLF_FEATURES, else none.",
        )
        parser.add_argument("--features_limit", type=PositiveFloat, default=10.0, help="Most GiB to keep there.")
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads; by default $CLF_THREADS, $OMP_NUM_THREADS, one for a backbone below 20 M parameters, "
            "else one for each core.",
        )
        parser.add_argument(
            SKIP, action="store_true", help="Go on without files and rows that cannot be read, and say which."
        )
        parser.add_argument(
            "--published", type=Published | None, default=None, help="What a paper reports; see `clf reproduce`."
        )
        parser.set_defaults(
            {
                "model.backbone": {"class_path": "cl_framework.backbones.glyph.GlyphViT"},
                "model.adapter": {"class_path": "cl_framework.adapters.bottleneck.Bottleneck"},
                "model.strategy": {"class_path": "strategies.learning.ease.EASE"},
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse numbers out of range, all at once."""
        super().parse_arguments(parser, args)
        ranges.check_numbers(self.config.as_dict())


class _Unbuilt(_CLI):
    def instantiate_classes(self) -> None:
        """Leave it at the config."""


def build(args: Sequence[str], console: Console) -> Experiment:
    """Parse arguments and config files, and build what they describe.

    Raises:
        UserError: If a key, class or value is wrong, saying which and what would be right.
    """
    cli = _parsed(_CLI, args)
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
    cli.model.model.frozen.precision = MIXED.get(str(cli.trainer.precision))
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
    cli = _parsed(_Unbuilt, args)
    return _written(cli)


def _written(cli: _CLI) -> str:
    """Return a config as YAML that can be read again.

    Raises:
        UserError: If a setting is an object that cannot be written as text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is looked for here
        text = str(cli.parser.dump(cli.config, skip_none=False))
    if lost := [f"{key} ({v.rpartition(' ')[2]})" for key, v in flat(yaml.safe_load(text)).items() if LOST in str(v)]:
        raise UserError(f"A run's config cannot hold {', '.join(lost)}; give it as text or a number, or null.")
    return text


def _parsed(kind: type[_CLI], args: Sequence[str]) -> _CLI:
    discovery.discover()
    trust.enforce(discovery.packages())
    try:
        with quiet():
            warnings.filterwarnings("ignore", message=rf"\s*{LOST}")  # said where the config is written
            warnings.filterwarnings("ignore", message="`loftq_config` specified")  # a default of peft, spelled out
            return kind(
                Learner,
                Data,
                args=shipped.with_paths(args),
                run=False,
                auto_configure_optimizers=False,
                save_config_callback=None,
                seed_everything_default=1993,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_kwargs={
                    "exit_on_error": False,
                    "parser_mode": shorthand.MODE,
                    "prog": "clf run",
                    "description": _DESCRIPTION,
                },
            )
    except jsonargparse.ArgumentError as error:
        raise UserError(explain(str(error), _sections())) from error
    except UserError:
        raise
    except Exception as error:  # what a class objects to is wrapped where a setting has several types
        if "Union subtypes" in str(error):
            raise UserError(explain(str(error), _sections())) from error
        if said := unforeseen.mendable(error):
            raise UserError(CHECKPOINTS if "ModelCheckpoint" in said else said) from error
        raise


def scenario_of(args: Sequence[str]) -> tuple[Scenario, str]:
    """Build the scenario that arguments such as ``--data.scenario ClassIncremental`` describe.

    Returns:
        The scenario, and its description with every setting spelled out, as JSON.

    Raises:
        UserError: If they describe none.
    """
    trust.enforce(discovery.packages())
    parser = jsonargparse.ArgumentParser(exit_on_error=False, parser_mode=shorthand.MODE)
    parser.add_subclass_arguments(Scenario, "data.scenario", required=True)
    parser.add_argument(SKIP, action="store_true")
    try:
        config = parser.parse_args(list(args))
        ranges.check_numbers(config.as_dict())
        make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.53
        built = make(config)
    except jsonargparse.ArgumentError as error:
        raise UserError(explain(str(error), _sections())) from error
    if config.skip_unreadable:
        built.data.scenario.skip_unreadable()
    return built.data.scenario, json.dumps(config.data.scenario.as_dict(), default=str)

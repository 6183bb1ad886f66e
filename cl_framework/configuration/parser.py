"""The full parser of configs: LightningCLI with our sections and options, used after the check of `given`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import jsonargparse
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from cl_framework.configuration import accepted, refusal, shipped, shorthand
from cl_framework.configuration.given import SCENARIO, Given
from cl_framework.configuration.sections import Data
from cl_framework.engine.learner import Learner
from cl_framework.engine.trainers import quiet
from cl_framework.errors import UserError, unforeseen
from cl_framework.settings import discovery, ranges, trust
from cl_framework.streams.scenario import Scenario

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
LOST = "Unable to serialize instance"
"""What stands in a written config for an object that has no text."""
CHECKPOINTS = (
    "Lightning's checkpoints would keep what a forget request must remove, and a run stores each event itself; "
    "set trainer.enable_checkpointing to false and leave out ModelCheckpoint."
)


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        types = get_type_hints(accepted.Options)
        for option in fields(accepted.Options):
            help_text = {"help": option.metadata["help"]}
            kind = {"action": "store_true"} if types[option.name] is bool else {"type": types[option.name]}
            default = os.environ.get("CLF_FEATURES") or None if option.name == "features" else option.default
            parser.add_argument(f"--{option.name}", default=default, **kind, **help_text)
        parser.set_defaults(
            {part: {"class_path": path} for part, path in accepted.DEFAULTS.items() if part != "model.optimizer"}
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse numbers out of range, all at once."""
        super().parse_arguments(parser, args)
        ranges.check_numbers(self.config.as_dict())

    def instantiate_classes(self) -> None:
        """Build the parts; where one cannot be built, say what its class has against it.

        Raises:
            UserError: If so.
        """
        failed: list[tuple[type, Exception]] = []

        def instantiate(kind: type, *args: Any, **kwargs: Any) -> Any:
            try:
                return kind(*args, **kwargs)
            except Exception as error:
                failed.append((kind, error))
                raise

        self.parser.add_instantiator(instantiate, object)  # as Lightning adds its own, which come first
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except Exception as error:  # of a setting with several types, what its class says is lost on the way
            if failed and (sentence := refusal.of_a_class(*failed[-1], wrapped=error is not failed[-1][1])):
                raise UserError(sentence) from failed[-1][1]
            raise


class _Unbuilt(_CLI):
    def instantiate_classes(self) -> None:
        """Leave it at the config."""


def parsed_config(args: Sequence[str], build: bool = True) -> LightningCLI:
    """Parse arguments and config files, and build what they describe.

    Args:
        args: The arguments; configs may be names.
        build: Whether to build the parts, or only to read the config.

    Raises:
        UserError: If a key, class or value is wrong, saying which and what would be right.
    """
    discovery.discover()
    trust.enforce(discovery.packages())
    words = [*map(shorthand.moved, shipped.with_paths(args))]
    Given().words(words).check()
    try:
        with quiet():
            warnings.filterwarnings("ignore", message=rf"\s*{LOST}")  # said where the config is written
            warnings.filterwarnings("ignore", message="`loftq_config` specified")  # a default of peft, spelled out
            return (_CLI if build else _Unbuilt)(
                Learner,
                Data,
                args=words,
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
        raise refusal.of_the_parser(error, words) from error
    except UserError:
        raise
    except Exception as error:
        if sentence := unforeseen.mendable(error):
            raise UserError(CHECKPOINTS if "ModelCheckpoint" in sentence else sentence) from error
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
    parser.add_subclass_arguments(Scenario, SCENARIO, required=True)
    parser.add_argument(SKIP, action="store_true")
    only = (SCENARIO, SKIP.removeprefix("--"))
    given = Given(only).words(args)
    given.check_scenario("`clf learn`")
    given.check()
    try:
        config = parser.parse_args([*map(shorthand.moved, args)])
        ranges.check_numbers(config.as_dict())
        make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.53
        built = make(config)
    except jsonargparse.ArgumentError as error:
        raise refusal.of_the_parser(error, args, only) from error
    if config.skip_unreadable:
        built.data.scenario.skip_unreadable()
    return built.data.scenario, json.dumps(config.data.scenario.as_dict(), default=str)

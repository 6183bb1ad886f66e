"""``cl_framework.run``: carry out a stream from Python, in memory or in a run directory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration.described import check_remade, class_paths, config_from, remade
from cl_framework.configuration.experiment import Experiment, of_objects, resolve, set_seed
from cl_framework.configuration.sections import Data
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.evaluation.run_results import Results
from cl_framework.operations.in_memory import carry_out_in_memory
from cl_framework.operations.preparation import prepare
from cl_framework.operations.streaming import start_run
from cl_framework.runs import receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.settings import discovery, ranges, trust
from cl_framework.streams.scenario import Scenario
from cl_framework.terminal.console import CONSOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ONE_AT_A_TIME = threading.RLock()
"""Held while a run is worked on: random numbers, trust and the parser's folder belong to the whole process."""
DEFAULT_SEED = 1993
"""The seed of a run unless another is given, as of `clf run`."""


def run(
    learner: Learner,
    stream: Scenario,
    epochs: int = 10,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 48,
    validation: float = 0.0,
    seed: int = DEFAULT_SEED,
    threads: int | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Results:
    """Carry out a stream of learn and forget requests, measuring after each.

    The same objects, settings and seed give the same bits as `clf run`, in memory and on disk. Threads of one process
    take turns.

    Args:
        learner: The model and its strategies; it has learned nothing yet, and has learned the stream afterwards.
        stream: The requests, and the data in them.
        epochs: How long each stretch of training takes, unless the method says otherwise.
        run_dir: Directory of the run; all parts must then be of classes that can be imported. None keeps it in memory.
        batch_size: Samples per training step.
        validation: Share of the samples of each stretch of training to hold out.
        seed: From which every event's seed is derived.
        threads: CPU threads; chosen by the size of the backbone if None.
        trainer: Further options of Lightning's trainer, such as ``{"accelerator": "gpu"}``.
        progress: Whether to show how far it has come, if there is a terminal.

    Raises:
        UserError: If the run cannot be carried out, saying what to change; nothing is left of it then.
    """
    if trainer is not None and not isinstance(trainer, Mapping):
        options_of = 'give the options of Lightning\'s trainer, as in {"accelerator": "gpu"}'
        raise UserError(f"The trainer is {_called(trainer)}; {options_of}.")
    with ONE_AT_A_TIME:
        _check(learner, stream, {"epochs": epochs, "batch_size": batch_size, "validation": validation, "seed": seed})
        options = {"max_epochs": epochs, **(trainer or {})}
        ranges.check_numbers({"trainer": options, "threads": threads})
        if run_dir is None:
            experiment = of_objects(learner, Data(stream, batch_size, validation), options, CONSOLE, seed, threads)
            timeline = prepare(experiment)
            with showing_progress(progress):
                return Results.of(carry_out_in_memory(experiment, timeline))
        path = path_from("run_dir", run_dir)
        RunDirectory.check_free(path)
        config = config_from(learner, stream, batch_size=batch_size, validation=validation)
        config |= {"seed_everything": seed, "threads": threads, "trainer": options}
        with trusting(class_paths(config)):
            text = resolved(config)
        check_remade(learner, lambda: set_seed(seed))
        # A run takes its samples from its own list; the caller's stream keeps its own.
        data = Data(remade(stream), batch_size, validation)
        experiment = of_objects(learner, data, options, CONSOLE, seed, threads)
        return _on_disk(replace(experiment, config=text, run_dir=str(path)), progress)


def _on_disk(experiment: Experiment, progress: bool) -> Results:
    """Carry out an experiment in its run directory."""
    key = receipts.new_key()
    timeline, path = prepare(experiment, key), Path(str(experiment.run_dir))
    with showing_progress(progress):
        start_run(experiment, timeline, key, path)
    return results_of(path)


def results_of(path: Path) -> Results:
    """Return the results that a run wrote down last.

    Raises:
        UserError: If it has none.
    """
    file = path / "results.json"
    if not file.is_file():
        raise UserError(f"{path} has no results yet; call `resume()` on the run, or `clf resume {path}`.")
    return Results.of(json.loads(file.read_text(encoding="utf-8")))


def resolved(config: Mapping[str, Any]) -> str:
    """Return a config as YAML with every default filled in.

    Raises:
        UserError: If a setting is wrong.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        return resolve(["--config", str(file)])


@contextmanager
def trusting(paths: Iterator[str] | Sequence[str]) -> Iterator[None]:
    """Trust classes that the caller has imported already, while the block runs.

    Args:
        paths: Dotted names; those that any config may name need no trust.
    """
    words = []
    for path in paths:
        try:
            trust.require(path, discovery.packages())
        except UserError:
            words += [trust.OPTION, path]
    with ONE_AT_A_TIME, trust.given(words):
        yield


@contextmanager
def showing_progress(progress: bool) -> Iterator[None]:
    """Show progress only on a terminal, and only if it is wanted, while the block runs."""
    before, CONSOLE.quiet = CONSOLE.quiet, CONSOLE.quiet or not (progress and CONSOLE.is_terminal)
    try:
        yield
    finally:
        CONSOLE.quiet = before


def _check(learner: object, stream: object, numbers: Mapping[str, object]) -> None:
    """Make sure of the arguments that are not looked at elsewhere.

    Raises:
        UserError: If one cannot be what it is.
    """
    if not isinstance(learner, Learner):
        raise UserError(
            f"The learner is {_called(learner)}; give a Learner, as in "
            "Learner(GlyphViT(), Bottleneck(16), EASE(), DropAdapter())."
        )
    check_stream(stream)
    if learner.model.known or learner.now:
        raise UserError(
            "This learner has learned already, and a run starts with a new one; make another, or go on with a run on "
            "disk by `clf.Run.open(DIR).learn(stream)`."
        )
    for name, value in numbers.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (name == "validation" and isinstance(value, float))):
            kind = "number" if name == "validation" else "whole number"
            raise UserError(f"{name} must be a {kind}; found {value!r}.")
    places = {"epochs": "trainer.max_epochs", "seed": "seed_everything"}
    for name, value in numbers.items():
        if fault := ranges.fault(places.get(name, name), value):
            raise UserError(f"{fault.replace(places.get(name, name), name)}.")


def path_from(name: str, given: object) -> Path:
    """Return the path of a directory, the home directory in place of ``~``.

    Args:
        name: What it is called in the message.
        given: The path as a word or an object.

    Raises:
        UserError: If it is neither.
    """
    if not isinstance(given, str | os.PathLike):
        raise UserError(f'{name} is {_called(given)}; give the path of a directory, as in "runs/mine".')
    return Path(given).expanduser()


def check_stream(stream: object) -> None:
    """Make sure that a stream is a scenario of ours.

    Raises:
        UserError: If it is not.
    """
    if not isinstance(stream, Scenario):
        kind = stream if isinstance(stream, type) else type(stream)
        theirs = kind.__module__.partition(".")[0] == "avalanche"
        example = 'FromAvalanche("SplitMNIST", {"n_experiences": 5})' if theirs else 'ClassIncremental("digits")'
        raise UserError(f"The stream is {_called(stream)}; give a Scenario, as in {example}.")


def _called(given: object) -> str:
    """Return how to speak of an argument that is of the wrong type."""
    kind = given if isinstance(given, type) else type(given)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return f"the class {name}, no object of it" if isinstance(given, type) else "None" if given is None else f"a {name}"

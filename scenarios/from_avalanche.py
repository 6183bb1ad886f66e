"""Avalanche's benchmarks as our streams, and our streams as Avalanche's benchmarks. Needs the extra ``avalanche``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from cl_framework.errors import UserError, did_you_mean, extras
from cl_framework.settings import discovery, trust
from cl_framework.streams import Batch, Experience, Samples, Scenario, Step
from scenarios.data.arrays import inputs_from, upright
from scenarios.pictures.decode import read_image
from scenarios.pictures.pixels import three_channels
from scenarios.pictures.transforms import Pipeline, Plain, Transform


@final
class FromAvalanche(Scenario):
    """Takes experiences from any Avalanche benchmark; choose it to compare with results made there.

    Takes experiences from any Avalanche benchmark with a train and a test stream, class- or domain-incremental.

    Pictures come without the benchmark's own transforms and go through ours. Test experience ``i`` tests training
    experience ``i``; a benchmark with one test experience for all is split by the classes of each. Where an experience
    brings a class again (domain-incremental), only strategies that can learn more of a known class take it; a request
    by experience takes what that experience brought of the class.

    Args:
        benchmark: A name from ``avalanche.benchmarks.classic`` such as ``SplitCIFAR100``, or ``module:function`` for
            your own. In Python also a benchmark itself; a run on disk needs a name.
        options: Its arguments, such as ``{n_experiences: 10, seed: 1}``.
        transform: How pictures become inputs; ``Plain()`` if None.

    Raises:
        UserError: If it is neither a name nor a benchmark; on first use, if Avalanche is not installed, or has no such
            benchmark, or its streams do not match.
    """

    def __init__(
        self, benchmark: str, options: dict[str, Any] | None = None, transform: Transform | None = None
    ) -> None:
        """Keep the settings."""
        self.options, self.transform = options or {}, transform or Plain()
        given: Any = benchmark
        self._given = None if isinstance(given, str) else given
        self.benchmark = given if isinstance(given, str) else type(given).__name__
        if self._given is None:
            return
        if not (hasattr(given, "train_stream") and hasattr(given, "test_stream")):
            raise UserError(
                f"FromAvalanche takes the name of a benchmark or a benchmark with a train_stream and a test_stream, "
                f'found a {self.benchmark}; give one, as in FromAvalanche("SplitMNIST", {{"n_experiences": 5}}).'
            )
        if options:
            raise UserError("A benchmark that is made already takes no options; leave them out, or give its name.")

    @cached_property
    def made(self) -> Any:
        """The benchmark, built on first use; its random draws use a seed of their own."""
        if self._given is not None:
            return self._given
        make = _maker(self.benchmark)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                return make(**self.options)
            except TypeError as error:
                raise UserError(f"{self.benchmark} does not take these options ({error}).") from error

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # read from the data, on first use
        """What each class id is called: its number, for Avalanche keeps no names."""
        return tuple(map(str, range(1 + max(int(max(e.dataset.targets)) for e in self.made.train_stream))))

    def steps(self) -> Iterator[Step]:
        """Yield an experience for each of the training stream.

        Raises:
            UserError: If there are test experiences, but neither one for all nor one for each.
        """
        trains, tests = list(self.made.train_stream), list(self.made.test_stream)
        if len(tests) not in {1, len(trains)}:
            raise UserError(
                f"{self.benchmark} has {len(trains)} training and {len(tests)} test experiences; make them match."
            )
        start, how, name = 0, self.transform, f"avalanche/{self.benchmark}/{self._digest}"
        for i, experience in enumerate(trains):
            data = _Viewed(experience.dataset, start, how.train(), None)
            reference = _Viewed(experience.dataset, start, how.test(), f"{name}/train/{how.name}")
            at = min(i, len(tests) - 1)
            before = sum(len(t.dataset) for t in tests[:at])
            exam = _Viewed(tests[at].dataset, before, how.test(), f"{name}/test/{how.name}")
            classes = tuple(dict.fromkeys(data.labels.tolist()))
            yield Step(Experience(f"task-{i}", tuple(sorted(classes)), data, reference), exam.of(classes))
            start += len(data)

    def read(self, files: Sequence[str]) -> Tensor:
        """Read image files as the exams are read."""
        return self.transform.test()([read_image(Path(f)) for f in files])

    def inputs(self, given: Any) -> Tensor:
        """Make inputs of pictures held in memory, as exams are made."""
        return inputs_from(given, self.transform)

    def fingerprint(self) -> str:
        """Return a hash of labels, order and a few pictures of every experience: reading all is slow."""
        sha = sha256()
        for stream in (self.made.train_stream, self.made.test_stream):
            for e in stream:
                rows = _Viewed(e.dataset, 0, self.transform.test(), None)
                sha.update(rows.labels.numpy().tobytes())
                few = torch.linspace(0, len(rows) - 1, min(8, len(rows))).long().tolist()
                sha.update(rows[few].x.numpy().tobytes())
        return sha.hexdigest()

    @cached_property
    def _digest(self) -> str:
        return sha256(repr(sorted(self.options.items())).encode()).hexdigest()[:8]


@final
class _Viewed(Samples):
    """The samples of an Avalanche dataset, with our transforms in place of its own."""

    def __init__(self, dataset: Any, start: int, pipeline: Pipeline, key: str | None) -> None:
        """Number the samples from ``start`` on."""
        self.dataset, self.pipeline, self.key = dataset.replace_current_transform_group((None, None)), pipeline, key
        self.labels = torch.tensor([int(t) for t in dataset.targets], dtype=torch.int64)
        self.ids = start + torch.arange(len(self.labels))

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Read, and make tensors of what is none."""
        at = torch.as_tensor(rows, dtype=torch.int64)
        pictures = [picture_tensor(self.dataset[i][0]) for i in at.tolist()]
        return Batch(self.pipeline(pictures), self.labels[at], self.ids[at])


def to_avalanche(scenario: Scenario) -> Any:
    """Return an Avalanche benchmark with one train and one test experience for each experience of ``scenario``.

    Inputs are those that a strategy would get: the training transform in the train stream, the test transform in the
    other. Class ids stay, and Avalanche's class timeline is there.

    Raises:
        UserError: If Avalanche is not installed, or the stream forgets, which Avalanche knows nothing of.
    """
    steps = list(scenario.steps())
    lessons = [(s.event, s.exam) for s in steps if isinstance(s.event, Experience)]
    if len(lessons) < len(steps):
        raise UserError("Avalanche has no forget requests; hand over a stream of experiences only.")
    benchmarks, utils = _avalanche("benchmarks"), _avalanche("benchmarks.utils")
    scenarios = _avalanche("benchmarks.scenarios")

    def handed(samples: Samples) -> Any:
        return utils.as_classification_dataset(_OneByOne(samples))

    benchmark = benchmarks.benchmark_from_datasets(
        train=[handed(e.data) for e, _ in lessons], test=[handed(exam) for _, exam in lessons]
    )
    return scenarios.with_classes_timeline(benchmark)


@final
class _OneByOne(Dataset[tuple[Tensor, int]]):
    """Samples as Avalanche reads them: one at a time, with ``targets``."""

    def __init__(self, samples: Samples) -> None:
        self.samples, self.targets = samples, samples.labels.tolist()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        batch = self.samples[[row]]
        return batch.x[0], int(batch.y[0])


def picture_tensor(picture: Any) -> Tensor:
    """Return ``(3, H, W)`` of a picture that Pillow, torchvision or a tensor or array dataset holds.

    Raises:
        UserError: If it is no picture, or one of another layout or range.
    """
    if isinstance(picture, Image):
        try:
            return three_channels(picture)
        except ValueError as error:
            raise UserError(f"A picture of the benchmark cannot be used: {error}; correct the data set.") from error
    if not isinstance(picture, Tensor | np.ndarray):
        raise UserError(f"The benchmark holds {type(picture).__name__}; give pictures, arrays or tensors.")
    x = upright("pictures of the benchmark", picture[None])[0]
    return x.expand(3, -1, -1)


def _maker(name: str) -> Any:
    if ":" in name:
        module, _, function = name.partition(":")
        trust.require(f"{module}.{function}", discovery.packages())
        try:
            maker = getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{name} leads to no function ({error}); write module:function.") from error
        trust.require_home(maker, f"{module}.{function}", discovery.packages())
        return maker
    classic = _avalanche("benchmarks.classic")
    known: Mapping[str, Any] = {n: v for n, v in vars(classic).items() if callable(v) and n[0].isupper()}
    if name not in known:
        raise UserError(f"Avalanche has no benchmark {name!r}. {did_you_mean(name, known)}")
    return known[name]


def _avalanche(part: str) -> Any:
    """Import a part of Avalanche, which is slow, only here."""
    try:
        return import_module(f"avalanche.{part}")
    except ImportError as error:
        raise extras.missing_extra(f"This needs Avalanche ({error})", "avalanche") from error

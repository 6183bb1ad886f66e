"""Class-incremental streams: every experience brings new classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.streams import (
    Experience,
    Inventory,
    Joined,
    Relabelled,
    Samples,
    Scenario,
    Step,
    Survey,
    Watch,
    sample_list,
    unreadable_error,
    unwatched,
)
from scenarios.data.arrays import inputs_from
from scenarios.data.doubles import duplicate_warnings
from scenarios.data.faults import readable
from scenarios.data.grouping import read_groups
from scenarios.data.open import open_source
from scenarios.data.relisted import StreamParts, list_samples, relisted
from scenarios.data.renewed import renewed
from scenarios.data.source import LabelledSamples, Sentences, Source, View
from scenarios.pictures.decode import read_image, read_sentence
from scenarios.pictures.picture_cache import cached_pictures
from scenarios.pictures.transforms import Plain, Transform, Utf8


@final
class ClassIncremental(Scenario):
    """Splits the classes of a data source into experiences; choose it for streams without requests.

    Splits the classes of a data source into experiences ``task-0``, ``task-1``, ...

    The protocol of PILOT (Sun et al., 2023): "B-m Inc-n" has m classes first, then n at a time, the remainder last.
    Class ids stay the source's own. Nothing is loaded before the stream is first used.

    Args:
        dataset: A data source: digits, glyphs, torchvision:NAME, imagefolder:PATH, csv:FILE or json:FILE. In Python
            also a `scenarios.data.source.Source`, for a run in memory.
        base: Classes of the first experience; ``increment`` if None or 0.
        increment: Classes of each experience after it.
        order_seed: Seed of the class order (numpy's legacy generator; 1993 in the literature); None for natural order.
        order: The class order itself, in place of a seed; classes left out do not appear in the stream.
        sizes: How many classes each experience brings, in place of ``base`` and ``increment``.
        transform: How samples become inputs; ``Plain()`` for pictures and ``Utf8()`` for sentences if None.
        validation: Share of the training samples to test on in place of the test split, for choosing settings.
        classes: Stop after this many classes of the order; None for all.
        groups: A JSON file that names the classes of each experience, ``{"banking": ["transfer", ...], ...}``, in place
            of ``base``, ``increment``, ``order`` and ``sizes``; ``order_seed`` then orders the groups. Classes in none
            do not appear.
        cache: Most GiB to keep of pictures that were read from files, decoded and resized, in the folder that the
            environment's CLF_CACHE names, or ~/.cache/cl_framework/pictures; 0 reads every picture each time.

    Raises:
        UserError: If the arguments contradict each other or, on first use, the data.
    """

    def __init__(
        self,
        dataset: str = "digits",
        base: int | None = None,
        increment: int = 2,
        order_seed: int | None = 1993,
        order: list[int] | None = None,
        sizes: list[int] | None = None,
        transform: Transform | None = None,
        validation: float = 0.0,
        classes: int | None = None,
        groups: str | None = None,
        cache: float = 32.0,
    ) -> None:
        """Keep the settings."""
        self.dataset, self.increment, self.order_seed = dataset, increment, order_seed
        self.base, self.order, self.sizes = base or increment, order, sizes
        self.transform, self.validation, self.classes, self.grouping = transform, validation, classes, groups
        self.limit = int(cache * 2**30)
        self.skipping = False
        self.listed: sample_list.ListedSource | None = None
        self.key: bytes | None = None
        if self.base < 1 or increment < 1 or min(sizes or [1]) < 1 or (classes is not None and classes < 1):
            raise UserError("Every experience needs a class; give base, increment, sizes and classes of 1 or more.")
        if order is not None and len(set(order)) < len(order):
            raise UserError(f"The class order {order} names a class twice; name each once.")
        if groups and (order or sizes or classes):
            raise UserError("The groups say which classes come when; leave out order, sizes and classes.")
        if not 0 <= validation < 1:
            raise UserError(f"validation is a share of the training images, from 0 to below 1; found {validation}.")
        held: Any = dataset
        if not isinstance(held, str | Source):
            raise UserError(
                f'ClassIncremental takes the name of data, as in ClassIncremental("imagefolder:PATH"), or a Source, '
                f"found a {type(held).__name__}; docs/python.md makes a Source of arrays."
            )

    @cached_property
    def _opened(self) -> tuple[Source, list[str]]:
        """The data, loaded on first use, and the faults of samples that are left out."""
        faults: list[str] = []
        held: Any = self.dataset
        return (held if isinstance(held, Source) else open_source(self.dataset, faults)), faults

    @cached_property
    def whole(self) -> Source:
        """The data, without what cannot be read if that is to be skipped.

        Raises:
            UserError: If it is not.
        """
        source, faults = self._opened
        if faults and not self.skipping:
            raise unreadable_error(faults)
        return readable(source, unwatched)[0] if self.skipping else source

    @cached_property
    def source(self) -> Source:
        """The data that the stream is made of."""
        return self.whole.validating(self.validation) if self.validation else self.whole

    @property
    def _name(self) -> str:
        """What the data are called."""
        held: Any = self.dataset
        return held.name if isinstance(held, Source) else self.dataset

    def skip_unreadable(self) -> None:
        """Leave out files and rows that cannot be read."""
        self.skipping = True

    def survey(self, watch: Watch) -> Survey:
        """Check the header of every file, and look for duplicate samples."""
        source, faults = self._opened
        left, unreadable = readable(source, watch)
        if self.skipping:
            self.whole = left  # as it would be found again
        return Survey(
            [*faults, *unreadable], duplicate_warnings(left.validating(self.validation) if self.validation else left)
        )

    @cached_property
    def parts(self) -> StreamParts:
        """Data of the stream: as they are, or as a run's list says."""
        if self.listed is not None:
            return relisted(self.listed, self.key, self.whole if "_opened" in self.__dict__ else None)
        source = self.source
        for part in (source.train, source.test):
            if isinstance(part, Sentences):
                self._fitting(part.kind).check(part.sentences)
        return StreamParts(source.name, source.train.kind, source.train, source.test, source.class_names)

    def listing(self, watch: Watch) -> sample_list.ListedSource:
        """Return every sample of the classes in the stream."""
        return self.listed or list_samples(self.source, self.dataset, self.groups(), watch)

    def relist(self, listed: sample_list.ListedSource, key: bytes | None) -> None:
        """Take samples, names and groups from a list."""
        self.listed, self.key = listed, key
        for name in ("parts", "class_names", "how", "_views"):
            self.__dict__.pop(name, None)

    def renew(self, met: Collection[str]) -> Inventory:
        """Compare the list with what is there."""
        if self.listed is None:
            return Inventory()
        listed, inventory = renewed(self.listed, self.key, met)
        self.relist(listed, self.key)
        return inventory

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # read from the data, on first use
        """Name of each class id."""
        return self.parts.class_names

    @cached_property
    def how(self) -> Transform:
        """How samples become inputs.

        Raises:
            UserError: If the transform is for samples of another kind.
        """
        return self._fitting(self.parts.kind)

    def _fitting(self, kind: Literal["pictures", "sentences"]) -> Transform:
        how = self.transform or {"pictures": Plain, "sentences": Utf8}[kind]()
        if how.takes != kind:
            raise UserError(f"{type(how).__name__} takes {how.takes}, and {self._name} holds {kind}; leave it out.")
        return how

    def groups(self) -> list[tuple[int, ...]]:
        """Return the class ids of every experience.

        Raises:
            UserError: If order, sizes, base, classes or groups do not fit the classes there are.
        """
        if self.listed is not None:
            return [tuple(group) for group in self.listed.groups]
        n = len(self.class_names)
        if self.grouping is not None:
            dealt = read_groups(self.grouping, self.class_names)
            return [dealt[i] for i in class_order(len(dealt), self.order_seed)]
        order = class_order(n, self.order_seed) if self.order is None else self.order
        if strange := sorted(set(order) - set(range(n))):
            raise UserError(f"The class order names class {strange[0]}, but {self._name} has classes 0 to {n - 1}.")
        if self.classes is not None and self.classes > len(order):
            raise UserError(f"classes is {self.classes}, but there are only {len(order)}; choose at most that many.")
        order = order[: self.classes]
        sizes = task_sizes(len(order), self.base, self.increment) if self.sizes is None else self.sizes
        if sum(sizes) != len(order):
            problem = f"The sizes {sizes} sum to {sum(sizes)}, but there are {len(order)} classes"
            raise UserError(f"{problem}; make them sum to {len(order)}.")
        return [tuple(order[a:b]) for a, b in pairwise(accumulate(sizes, initial=0))]

    def steps(self) -> Iterator[Step]:
        """Yield one experience after another, with the test samples of its classes as its exam."""
        data, reference, exam = self._views
        for i, classes in enumerate(self.groups()):
            if not classes:  # all of its samples were gone before they were met
                continue
            yield Step(Experience(f"task-{i}", classes, data.of(classes), reference.of(classes)), exam.of(classes))

    @cached_property
    def _views(self) -> tuple[View, View, View]:
        """All samples as they are for training, for statistics and for exams."""
        parts, how = self.parts, self.how

        def view(samples: LabelledSamples, training: bool) -> View:
            key = None if training else f"{parts.name}/{samples.split}/{how.name}"
            fixed = how.fixed(training)
            cached = cached_pictures(samples, fixed, self.limit)
            if fixed is not None and cached is not None:
                return View(cached, fixed.rest, key)
            return View(samples, how.train() if training else how.test(), key)

        return view(parts.train, True), view(parts.train, False), view(parts.test, False)

    def exam(self, data: str, names: Mapping[str, int]) -> tuple[Samples, dict[str, int]]:
        """Return other data as a test set: their test split if they have one, else all of them."""
        source = open_source(data, exam=False)
        if source.train.kind != self.parts.kind:
            raise UserError(f"{data} holds {source.train.kind}, and the run knows {self.parts.kind}; give such data.")
        ids = {c: names[name] for c, name in enumerate(source.class_names) if name in names}
        parts = [View(p, self.how.test()) for p in ([source.test] if source.said else [source.train, source.test])]
        others = Counter(source.class_names[c] for p in parts for c in p.labels.tolist() if c not in ids)
        return Joined([Relabelled(p.of(ids), ids) for p in parts]), dict(others)

    def read(self, files: Sequence[str]) -> Tensor:
        """Read files as the exams are read: an image each ``(n, 3, side, side)``, or a sentence each ``(n, bytes)``."""
        one = read_image if self.how.takes == "pictures" else read_sentence
        return self.how.test()([one(Path(f)) for f in files])

    def inputs(self, given: Any) -> Tensor:
        """Make inputs of pictures or sentences held in memory, as exams are made."""
        return inputs_from(given, self.how)

    def fingerprint(self) -> str:
        """Return a hash of the data."""
        return self.source.fingerprint if self.listed is None else self.listed.fingerprint


def class_order(n: int, seed: int | None) -> list[int]:
    """Return the order of ``n`` classes, as PILOT draws it.

    >>> class_order(100, 1993)[:5]
    [68, 56, 78, 8, 23]
    """
    # The literature's orders come from numpy's legacy generator; the new one would give others.
    order: list[int] = list(range(n)) if seed is None else np.random.RandomState(seed).permutation(n).tolist()
    return order


def task_sizes(n: int, base: int, increment: int) -> list[int]:
    """Return how many classes each experience brings: base, then increments, the remainder last.

    >>> task_sizes(10, 5, 2)
    [5, 2, 2, 1]

    Raises:
        UserError: If ``base`` exceeds the number of classes.
    """
    if base > n:
        raise UserError(f"The first experience takes {base} classes, but there are only {n}; lower base or increment.")
    full, rest = divmod(n - base, increment)
    return [base, *[increment] * full, *[rest] * (rest > 0)]

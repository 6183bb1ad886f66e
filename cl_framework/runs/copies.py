"""Duplicates of samples that are to be forgotten.

A request names samples, not content: the same picture under another name or label stays in training and test data, and
no receipt mentions it. So duplicates are named before anything is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from cl_framework.runs import contents
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.events import ForgetRequest, Step
from cl_framework.streams.sample_list import ListedSample

_SHOWN = 5
"""Most samples that are named in a sentence; further ones are counted."""


@final
@dataclass(frozen=True, slots=True)
class Copies:
    """Duplicates of the samples to forget.

    Attributes:
        stay: Retained samples, each with the content of a forgotten one.
        both: Forgotten training samples, each with the first forgotten test sample of the same content.
    """

    stay: Sequence[ListedSample] = ()
    both: Sequence[tuple[ListedSample, ListedSample]] = ()

    @property
    def told(self) -> list[str]:
        """A sentence for each kind of duplicate."""
        sentences = []
        if n := len(self.stay):
            some = "1 sample that stays has" if n == 1 else f"{n:,} samples that stay have"
            ones = "one that goes" if n == 1 else "ones that go"
            sentences.append(f"{some} the same content as {ones}: {_named(map(_called, self.stay), n)}.")
        if n := len(self.both):
            some = "1 sample that goes is" if n == 1 else f"{n:,} samples that go are"
            pairs = (f"{_called(one)} = {_called(other)}" for one, other in self.both)
            sentences.append(f"{some} in training and test alike, where accuracy measured memory: {_named(pairs, n)}.")
        return sentences

    def as_json(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {
            "copies_that_stay": [_told(s) for s in self.stay],
            "in_training_and_test": [[_told(one), _told(other)] for one, other in self.both],
        }


def copies(listed: Iterable[ListedSample], trained: Collection[int], tested: Collection[int]) -> Copies:
    """Compare the forget set with everything else that a run knows, by content.

    Args:
        listed: All samples that the run knows.
        trained: Ids of the training samples to forget.
        tested: Ids of the test samples to forget.
    """
    ids = {"train": frozenset(trained), "test": frozenset(tested)}
    go: dict[str, list[ListedSample]] = {}
    rest: list[ListedSample] = []
    for s in listed:
        go.setdefault(s.digest, []).append(s) if s.id in ids[s.split] else rest.append(s)
    both = []
    for some in go.values():
        first = {split: next((s for s in some if s.split == split), None) for split in ids}
        if first["train"] and first["test"]:
            both.append((first["train"], first["test"]))
    return Copies([s for s in rest if s.digest and s.digest in go], both)


def of_request(run: RunDirectory, step: Step) -> Copies:
    """Return the same for a request at the end of a run's stream; nothing for runs that were made without a list."""
    event = step.event
    assert isinstance(event, ForgetRequest)
    tested = [] if event.single else step.exam.ids.tolist()
    return copies(contents.known_samples(run), event.data.ids.tolist(), tested)


def _called(s: ListedSample) -> str:
    """Return the name of a sample in messages, its class, and whether it is a test sample."""
    name = (
        f"{s.split} sample {s.id}" if not s.place else f"{s.place}{' of the test split' if s.split == 'test' else ''}"
    )
    return f"{name} ({s.class_name})"


def _named(names: Iterable[str], n: int) -> str:
    first = [name for name, _ in zip(names, range(_SHOWN), strict=False)]
    return ", ".join(first) + (f", ... ({n:,})" if n > _SHOWN else "")


def _told(s: ListedSample) -> dict[str, Any]:
    return {"split": s.split, "id": s.id, "place": s.place, "class": s.class_name, "experience": s.experience}

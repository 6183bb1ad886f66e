"""Forget requests on a finished run: from what a person writes to a request, and carrying it out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, final

from rich.console import Console
from rich.text import Text

from cl_framework.errors import MissingSample, UserError
from cl_framework.operations.picking import Picked, requested
from cl_framework.runs import copies, maintenance, receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.recorder import ReceiptDetails
from cl_framework.runs.signatures import Sign
from cl_framework.streams.events import Experience, Need, surviving
from cl_framework.streams.identifiers import called, class_ids
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE
from cl_framework.terminal.safe_text import printable

_SHOWN = 20
"""Samples that are named; more are counted."""
_T = TypeVar("_T", int, str)


@final
@dataclass(frozen=True, slots=True)
class ForgetWords:
    """What to forget, as a person writes it.

    Attributes:
        classes: Names, or ids as ``id:3``.
        experiences: Names.
        cells: Each an experience and one of its classes, as ``task-1:cat``.
        samples: Ids, paths, folders or patterns of samples, or files of them.
        where: Conditions on the columns of a table, each ``COLUMN=VALUE``.
        without: Samples that cannot be had any more.
    """

    classes: Sequence[str] = ()
    experiences: Sequence[str] = ()
    cells: Sequence[str] = ()
    samples: Sequence[str] = ()
    where: Sequence[str] = ()
    without: Sequence[Need] = ()

    def picked(self, directory: RunDirectory) -> Picked:
        """Return the samples that are named.

        Raises:
            UserError: If a word names none, or samples are asked for beside whole classes or experiences.
        """
        return requested(directory, self.samples, self.where, [*self.classes, *self.experiences])


def carry_out_request(
    directory: RunDirectory,
    words: ForgetWords,
    overrides: Sequence[str] = (),
    requester: str | None = None,
    sign: Sign | None = None,
    drop_history: bool = False,
) -> OpenRun:
    """Carry out a forget request on a finished run.

    Args:
        directory: The run.
        words: What to forget.
        overrides: Options that hold for this request only: another unlearner and its settings.
        requester: Who asks; the receipt keeps a keyed hash of it.
        sign: Signs the receipt.
        drop_history: Whether earlier events keep no tensors at all.

    Raises:
        UserError: If it cannot be honoured; the run is then as it was.
    """
    with directory.lock():
        directory.sweep()
        run = OpenRun.reopen(directory, overrides)
        run.check_finished()
        picked = words.picked(directory)
        later = with_request(run, words, picked)
        for sentence in copies.of_request(directory, later.steps[-1]).told if later else ():
            CONSOLE.print(Text(printable(sentence), "yellow"), soft_wrap=True)
        details = ReceiptDetails(requester, sign, drop_history, people=picked.who)
        run = later or run
        try:
            run.go_on(details)
        except MissingSample as error:
            raise _needed(run) or error from error
        if strange := maintenance.foreign(directory.path, directory.events()):
            names = ", ".join(strange[:5]) + (f", ... ({len(strange)})" if len(strange) > 5 else "")
            CONSOLE.print(f"The run did not write these files, and left them as they are: {names}", soft_wrap=True)
    return run


def _needed(run: OpenRun) -> UserError | None:
    """Name all that stays and is gone, where a way of forgetting had to read some of it."""
    gone = [g for e in surviving(run.steps) for g in e.data.absent()]
    if not gone:
        return None
    name, more = type(run.learner.unlearner).__name__, f", ... ({len(gone)})" if len(gone) > _SHOWN else ""
    return UserError(
        f"{name} reads samples that stay and are gone or changed: {', '.join(gone[:_SHOWN])}{more}; bring them "
        "back, forget them too (--samples FILE --without forget), or take an --unlearner that reads none."
    )


@dataclass(slots=True)
class _Past:
    """What was ever learned, and what of it is left."""

    classes: set[int] = field(default_factory=set)
    experiences: set[str] = field(default_factory=set)
    samples: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, experiences: Iterable[Experience]) -> _Past:
        past = cls()
        for e in experiences:
            past.classes |= set(e.classes)
            past.experiences.add(e.name)
            past.samples |= set(e.data.ids.tolist())
        return past


def with_request(run: OpenRun, words: ForgetWords, picked: Picked, console: Console | None = None) -> OpenRun | None:
    """Return the run with the request at the end of its timeline; None if all it asks for is forgotten already.

    Args:
        run: What is to forget.
        words: What to forget.
        picked: The samples that this names.
        console: Where to say what is forgotten already; `CONSOLE` if None.

    Raises:
        UserError: If it asks for nothing, or for what was never learned.
    """
    directory, timeline, console = run.directory, run.timeline, console or CONSOLE
    ever = _Past.of(s.event for s in run.steps if isinstance(s.event, Experience))
    left = _Past.of(surviving(run.steps))
    names = timeline.class_names
    classes = class_ids(words.classes, names, left.classes, timeline.hidden)
    if strange := [c for c in classes if c not in ever.classes]:
        alive = ", ".join(called(c, names) for c in sorted(left.classes))
        raise UserError(f"Class {called(strange[0], names)} was never learned; alive now: {alive or 'none'}.")
    samples = picked.ids
    spoken = {c: _word(typed, c, names) for typed, c in zip(words.classes, classes, strict=True)}
    kept_classes = _not_yet(directory, "class", classes, ever.classes - left.classes, console, spoken)
    experiences = _not_yet(directory, "experience", words.experiences, ever.experiences - left.experiences, console)
    kept_samples = _not_yet(directory, "sample", samples, ever.samples - left.samples, console)
    cells = [_cell(word, ever.experiences, timeline, left) for word in words.cells]
    if (classes or words.experiences or samples) and not cells and not (kept_classes or experiences or kept_samples):
        console.print("Nothing is left to forget; the run stays as it is.")
        return None
    missing = list(words.without)
    spec = {"classes": kept_classes, "experiences": experiences, "samples": kept_samples, "missing": missing}
    spec |= {"cells": cells}
    return run.along(timeline.forgetting({k: v for k, v in spec.items() if v}))


def _cell(word: str, experiences: Collection[str], timeline: Timeline, left: _Past) -> list[str | int]:
    """Return the experience and the class that a word such as ``task-1:cat`` names."""
    found = [e for e in experiences if word.startswith(f"{e}:")]
    if not found:
        hint = "write an experience and one of its classes, as in task-1:cat"
        raise UserError(f"{printable(word)!r} begins with no experience of this run; {hint}.")
    experience = max(found, key=len)
    return [experience, *class_ids([word.removeprefix(f"{experience}:")], timeline.class_names, left.classes)]


def _word(typed: str, cls: int, names: Sequence[str]) -> str:
    """Return how to speak of a class, by the name that was typed where the run has none any more."""
    told = called(cls, names)
    return told if told != f"id:{cls}" or typed in (str(cls), told) else f"{printable(typed)} (id:{cls})"


def _not_yet(
    directory: RunDirectory,
    kind: str,
    asked: Sequence[_T],
    gone: Collection[_T],
    console: Console,
    words: Mapping[_T, str] | None = None,
) -> list[_T]:
    """Return what of the request is not forgotten yet; say which receipt tells of the rest, in ``words`` if given."""
    past = [a for a in asked if a in gone]
    if past:
        lines = receipts.covering(directory.path, kind, past)
        several = {"class": "classes", "experience": "experiences", "sample": "samples"}[kind]
        names = ", ".join((words or {}).get(a, printable(a)) for a in past[:10]) + (" ..." if len(past) > 10 else "")
        where = ", ".join(str(n) for n in sorted(set(lines.values())))
        told = f"; {receipts.FILE} line {where}" if where else ""
        console.print(f"Already forgotten: {kind if len(past) == 1 else several} {names}{told}", soft_wrap=True)
    return [a for a in asked if a not in gone]

"""The verbs ``forget`` and ``plan-forget``: carry out a forget request on a finished run, or show what it would do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from cl_framework.cli import arguments
from cl_framework.cli.picking import Picked, requested
from cl_framework.errors import Absent, UserError
from cl_framework.runs import copies, maintenance, receipts
from cl_framework.runs.directory import Run
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.recorder import ReceiptDetails
from cl_framework.runs.reopening import opened
from cl_framework.runs.signatures import signer
from cl_framework.streams.events import Experience, Need, surviving
from cl_framework.streams.identifiers import called, class_ids
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE, make_console
from cl_framework.terminal.safe_text import printable, say

_SHOWN = 20
"""Most samples that are named; further ones are counted."""
_T = TypeVar("_T", int, str)


def forget(argv: Sequence[str]) -> int:
    """Carry out a forget request on a finished run."""
    args = arguments.parse("forget", argv)
    if args.dry_run:
        return _show(args)
    if args.json or args.ids or args.all:
        raise UserError(
            "--json, --ids and --all show what would be done; give --dry-run too, or ask `clf plan-forget`."
        )
    directory, sign = opened(args.dir, args.relocate), signer(args.sign) if args.sign else None
    with directory.lock():
        directory.sweep()
        run = OpenRun.reopen(directory, _overrides(args))
        run.check_finished()
        picked = requested(directory, args.samples, args.where, [*args.classes, *args.experiences])
        later = _request(run, args, picked)
        for sentence in copies.of_request(directory, later.steps[-1]).told if later else ():
            CONSOLE.print(Text(printable(sentence), "yellow"), soft_wrap=True)
        details = ReceiptDetails(args.requester, sign, args.history == "drop", people=picked.who)
        run = later or run
        try:
            run.go_on(details)
        except Absent as error:
            raise _needed(run) or error from error
        if strange := maintenance.foreign(directory.path, directory.events()):
            names = ", ".join(strange[:5]) + (f", ... ({len(strange)})" if len(strange) > 5 else "")
            CONSOLE.print(f"The run did not write these files, and left them as they are: {names}", soft_wrap=True)
    return 0


def _needed(run: OpenRun) -> UserError | None:
    """Name all retained samples that are missing, where the unlearner must read some."""
    gone = [g for e in surviving(run.steps) for g in e.data.absent()]
    if not gone:
        return None
    name, more = type(run.learner.unlearner).__name__, f", ... ({len(gone)})" if len(gone) > _SHOWN else ""
    return UserError(
        f"{name} reads samples that stay and are gone or changed: {', '.join(gone[:_SHOWN])}{more}; bring them "
        "back, forget them too (--samples FILE --without forget), or take an --unlearner that reads none."
    )


def plan_forget(argv: Sequence[str]) -> int:
    """Show what a forget request would do to every artifact, without doing it."""
    return _show(arguments.parse("plan-forget", argv))


def _show(args: argparse.Namespace) -> int:
    from cl_framework.cli import plan_forget as cli_plan_forget

    if args.ids and not args.json:
        raise UserError("--ids names the samples in JSON; give --json with it.")
    run = OpenRun.reopen(opened(args.dir, args.relocate), _overrides(args))
    run.check_finished()
    picked = requested(run.directory, args.samples, args.where, [*args.classes, *args.experiences])
    later = _request(run, args, picked, make_console(stderr=True) if args.json else CONSOLE)
    if args.json:
        say(json.dumps(cli_plan_forget.plan_as_json(later, args.ids) if later else None, indent=1))
    elif later:
        cli_plan_forget.print_plan(later, CONSOLE, args.all)
    return 0


def _overrides(args: argparse.Namespace) -> list[str]:
    """Return the changes of the run's config: the unlearner only."""
    return [*(["--model.unlearner", args.unlearner] if args.unlearner else []), *args.rest]


@dataclass(slots=True)
class _Past:
    """Return what was ever learned, and what is left of it."""

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


def _request(run: OpenRun, args: argparse.Namespace, picked: Picked, console: Console = CONSOLE) -> OpenRun | None:
    """Return the run with the request at the end of its timeline; None if all of it is forgotten already.

    Args:
        run: The run.
        args: The arguments.
        picked: The samples that this names.
        console: Console for what is forgotten already.

    Raises:
        UserError: If it names nothing, or what was never learned.
    """
    directory, timeline = run.directory, run.timeline
    ever = _Past.of(s.event for s in run.steps if isinstance(s.event, Experience))
    left = _Past.of(surviving(run.steps))
    names = timeline.class_names
    classes = class_ids(args.classes, names, left.classes, timeline.hidden)
    if strange := [c for c in classes if c not in ever.classes]:
        alive = ", ".join(called(c, names) for c in sorted(left.classes))
        raise UserError(f"Class {called(strange[0], names)} was never learned; alive now: {alive or 'none'}.")
    samples = picked.ids
    words = {c: _word(typed, c, names) for typed, c in zip(args.classes, classes, strict=True)}
    kept_classes = _not_yet(directory, "class", classes, ever.classes - left.classes, console, words)
    experiences = _not_yet(directory, "experience", args.experiences, ever.experiences - left.experiences, console)
    kept_samples = _not_yet(directory, "sample", samples, ever.samples - left.samples, console)
    cells = [_cell(word, ever.experiences, timeline, left) for word in args.cells]
    if (classes or args.experiences or samples) and not cells and not (kept_classes or experiences or kept_samples):
        console.print("Nothing is left to forget; the run stays as it is.")
        return None
    missing: list[Need] = args.without
    spec = {"classes": kept_classes, "experiences": experiences, "samples": kept_samples, "missing": missing}
    spec |= {"cells": cells}
    return run.along(timeline.forgetting({k: v for k, v in spec.items() if v}))


def _cell(word: str, experiences: Collection[str], timeline: Timeline, left: _Past) -> list[str | int]:
    """Return the experience and the class that a word such as ``task-1:cat`` names."""
    matches = [e for e in experiences if word.startswith(f"{e}:")]
    if not matches:
        hint = "write an experience and one of its classes, as in task-1:cat"
        raise UserError(f"{printable(word)!r} begins with no experience of this run; {hint}.")
    experience = max(matches, key=len)
    return [experience, *class_ids([word.removeprefix(f"{experience}:")], timeline.class_names, left.classes)]


def _word(typed: str, cls: int, names: Sequence[str]) -> str:
    """Return a function that names classes, with the typed name for a class whose name the run has erased."""
    name = called(cls, names)
    return name if name != f"id:{cls}" or typed in (str(cls), name) else f"{printable(typed)} (id:{cls})"


def _not_yet(
    directory: Run,
    kind: str,
    asked: Sequence[_T],
    gone: Collection[_T],
    console: Console,
    words: Mapping[_T, str] | None = None,
) -> list[_T]:
    """Return the part of the request that is not forgotten yet; print the receipts of the rest, in ``words``."""
    past = [a for a in asked if a in gone]
    if past:
        lines = receipts.covering(directory.path, kind, past)
        several = {"class": "classes", "experience": "experiences", "sample": "samples"}[kind]
        names = ", ".join((words or {}).get(a, printable(a)) for a in past[:10]) + (" ..." if len(past) > 10 else "")
        where = ", ".join(str(n) for n in sorted(set(lines.values())))
        receipt = f"; {receipts.FILE} line {where}" if where else ""
        console.print(f"Already forgotten: {kind if len(past) == 1 else several} {names}{receipt}", soft_wrap=True)
    return [a for a in asked if a not in gone]

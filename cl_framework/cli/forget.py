"""The verbs ``forget`` and ``plan-forget``: carry out a forget request on a finished run, or show what it would do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from cl_framework.cli import arguments
from cl_framework.errors import UserError
from cl_framework.operations import forgetting
from cl_framework.operations.forgetting import ForgetWords
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.reopening import opened
from cl_framework.runs.signatures import signer
from cl_framework.terminal.console import CONSOLE, make_console
from cl_framework.terminal.safe_text import say


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
    drop = args.history == "drop"
    forgetting.carry_out_request(directory, _words(args), _overrides(args), args.requester, sign, drop)
    return 0


def plan_forget(argv: Sequence[str]) -> int:
    """Show what a forget request would do to every artifact, without doing it."""
    return _show(arguments.parse("plan-forget", argv))


def _show(args: argparse.Namespace) -> int:
    from cl_framework.cli import plan_forget as cli_plan_forget

    if args.ids and not args.json:
        raise UserError("--ids names the samples in JSON; give --json with it.")
    run, words = OpenRun.reopen(opened(args.dir, args.relocate), _overrides(args)), _words(args)
    run.check_finished()
    console = make_console(stderr=True) if args.json else CONSOLE
    later = forgetting.with_request(run, words, words.picked(run.directory), console)
    if args.json:
        say(json.dumps(cli_plan_forget.plan_as_json(later, args.ids) if later else None, indent=1))
    elif later:
        cli_plan_forget.print_plan(later, CONSOLE, args.all)
    return 0


def _words(args: argparse.Namespace) -> ForgetWords:
    return ForgetWords(args.classes, args.experiences, args.cells, args.samples, args.where, args.without)


def _overrides(args: argparse.Namespace) -> list[str]:
    """Return the changes of the run's config: the unlearner only."""
    return [*(["--model.unlearner", args.unlearner] if args.unlearner else []), *args.rest]

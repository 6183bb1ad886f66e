"""The command ``clf``: one verb, then its arguments. Imports nothing heavy until a verb needs it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from cl_framework.cli.verbs import VERBS, guide, teach
from cl_framework.errors import UserError, did_you_mean, unforeseen
from cl_framework.settings import trust
from cl_framework.terminal.safe_text import say


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line; return the exit code.

    0 is success, 1 a problem found by a check, 2 an error the user can correct, 3 an unforeseen error, 130 stopped by
    Ctrl-C. With ``--debug`` anywhere, or ``CLF_DEBUG`` set, tracebacks are printed too.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given or bool(os.environ.get("CLF_DEBUG"))
    try:
        code = attempt([a for a in given if a != "--debug"], debug)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def attempt(args: Sequence[str], debug: bool = False) -> int:
    """Carry out one command line; errors become a line and an exit code."""
    try:
        return dispatch(args)
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            raise
        if debug:
            traceback.print_exception(error)
        line, code = _error_line(error)
        say(f"clf: {line}", error=True)
        return code
    except SystemExit as stop:  # argument parsers leave like this
        if isinstance(stop.code, str):
            say(stop.code, error=True)
        return stop.code if isinstance(stop.code, int) else 2 if stop.code else 0
    except KeyboardInterrupt:
        say(stopped(args), error=True)
        return 130


def _error_line(error: Exception) -> tuple[str, int]:
    """Return the line of an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'The disk'}: {error.strerror}; no file was left incomplete.", 2
    return unforeseen.error_sentence(error), 2 if unforeseen.mendable(error) else 3


def dispatch(args: Sequence[str]) -> int:
    """Find the verb and pass it the rest.

    Raises:
        UserError: If there is no such verb.
    """
    verb, *rest = args or ["--help"]
    if verb == "help" and rest:
        verb, rest = rest[0], ["--help"]
    if verb in {"-h", "--help", "help"}:
        say(guide())
        return 0
    if verb == "--version":
        from importlib.metadata import PackageNotFoundError, version

        with suppress(PackageNotFoundError):  # run from a source tree
            say(version("cl-framework"))
        return 0
    if verb not in VERBS:
        raise UserError(f"There is no command {verb!r}. {did_you_mean(verb, VERBS)}")
    module, _, function = (VERBS[verb].where or f"run.{verb}").partition(".")
    with trust.given(rest) as untrusting:
        words = _checked(verb, list(untrusting))
        if words is None:
            return 0
        code = getattr(import_module(f"cl_framework.cli.{module}"), function)(words)
    return code if isinstance(code, int) else 0


def _checked(verb: str, rest: list[str]) -> list[str] | None:
    """Check what follows a verb before anything heavy is imported; return it, or None if it was about help.

    Raises:
        UserError: If something in it is certainly wrong.
    """
    if verb in ("run", "plan"):
        return checked_config(verb, rest)
    from cl_framework.cli import arguments

    if verb not in arguments.PARSERS:
        return rest
    from cl_framework.cli import precheck

    return precheck.of_run(verb, rest)


def checked_config(verb: str, rest: list[str]) -> list[str] | None:
    """Do so for a verb that takes a config.

    Raises:
        UserError: If there is none, or something in it is certainly wrong.
    """
    from cl_framework.cli import precheck

    if {"-h", "--help"} & set(rest):
        say(teach(verb))
        return None
    if not rest:
        raise UserError(f"`clf {verb}` needs a config.\n\n{teach(verb)}")
    if "--help-all" in rest:
        return ["--help"]
    return rest if asks_for_help(rest) else precheck.of_config(rest)


def asks_for_help(words: Sequence[str]) -> bool:
    """Tell whether words ask about a setting's class, as in ``--model.strategy.help EASE``."""
    return any(w.startswith("--") and w.partition("=")[0].endswith(".help") for w in words)


def stopped(args: Sequence[str]) -> str:
    """Return the line that follows Ctrl-C, naming the run where the arguments do.

    >>> stopped(["run", "--config", "a.yaml", "--run_dir", "runs/none"])
    'stopped before anything was written'
    >>> stopped(["run", "--config", "a.yaml"])
    'stopped; `clf resume DIR` continues'
    """
    verb, *rest = args or [""]
    if verb not in {"run", "resume", "learn", "forget"}:
        return "stopped"
    words = [part for word in rest for part in word.split("=", 1)]
    if "--run_dir" in words[:-1]:
        where = words[words.index("--run_dir") + 1]
    else:
        where = rest[0] if verb != "run" and rest and not rest[0].startswith("-") else "DIR"
    if where != "DIR" and not (Path(where) / "manifest.json").exists():
        return "stopped before anything was written"
    if verb == "forget":  # a request that had not happened yet is written nowhere, so resuming would not take it up
        return "stopped; the request is carried out or not: give the same command again to finish it"
    return f"stopped; `clf resume {where}` continues"


if __name__ == "__main__":
    sys.exit(main())

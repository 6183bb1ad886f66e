"""Typing mistakes answered before anything heavy is imported.

Only what is certainly wrong is refused: what `configuration.given` can judge from source files, data sources and
options of verbs that do not exist, directories that hold no run or hold one already. The full parser judges the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from cl_framework.cli import arguments
from cl_framework.configuration import shipped
from cl_framework.configuration.flags import options
from cl_framework.configuration.given import Given, check_inputs
from cl_framework.operations.picking import requested
from cl_framework.runs.directory import RunDirectory
from cl_framework.settings import discovery


def of_config(argv: Sequence[str], data: bool = True) -> list[str]:
    """Check the arguments of ``run`` and ``plan``; return them with configs as paths.

    Args:
        argv: The arguments.
        data: Also check that what the data source names is there.

    Raises:
        UserError: If something in them is certainly wrong.
    """
    words = shipped.with_paths(argv)
    given = Given().words(words)
    given.check()
    if data:
        given.check_scenario("A config")
    if isinstance(run_dir := given.values.get("run_dir"), str):
        RunDirectory.check_free(run_dir)
    if data:
        _check_dataset(given)
    return words


def of_run(verb: str, argv: Sequence[str]) -> list[str]:
    """Check the arguments of a verb that opens a run.

    Raises:
        UserError: If something in them is certainly wrong.
    """
    args = arguments.parse(verb, argv)
    run = RunDirectory.open(args.dir)
    if getattr(args, "samples", None) or getattr(args, "where", None):
        requested(run, args.samples, args.where, [*args.classes, *args.experiences])
    given = Given(whole=False)
    named = [("model.unlearner", args.unlearner)] if getattr(args, "unlearner", None) else []
    for name, value in [*named, *options(args.rest)]:
        given.option(name, value)
    given.check()
    if verb == "learn":
        given.check_scenario("`clf learn`")
    if verb == "predict":
        check_inputs(args.files)
    _check_dataset(given)
    return list(argv)


def _check_dataset(given: Given) -> None:
    if given.dataset is not None:
        discovery.data_sources().asked(given.dataset)

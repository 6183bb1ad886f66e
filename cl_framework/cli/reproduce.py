"""The verb ``reproduce``: run a published setting, and compare with its figures."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.cli import precheck
from cl_framework.configuration import shipped, shorthand
from cl_framework.errors import UserError, did_you_mean
from cl_framework.evaluation import summary
from cl_framework.evaluation.published import Published, verdicts
from cl_framework.terminal import grid
from cl_framework.terminal.safe_text import say

_DESCRIPTION = """Run a published setting and say inside or outside: whether its figures come out within the tolerance.

Without a name, list the methods that have settings, with --all each setting. What follows the name changes the config as in `clf run`. Nothing is
fetched unless asked for; what is missing is named, with the place where it belongs. A stopped run goes on, and a
finished one is judged again, if the settings asked for are those it was started with.

  clf reproduce simplecil_cifar100_inc5
  clf reproduce ease_cifar100_inc5 --model.backbone.download true --data.scenario.dataset torchvision:CIFAR100:download=true
  clf reproduce mos_cub200_inc10 --data.scenario.dataset imagefolder:PATH --config configs/trainer/gpu_bf16.yaml

Exit code 0: inside. 1: outside. 2: something is missing, or it was a trial."""  # noqa: E501

NO_MATTER = ("published", "run_dir", "features", "features_limit", "threads")
"""Sections of a config that change no result of a run."""


def reproduce(argv: Sequence[str]) -> int:
    """Carry out ``clf reproduce``."""
    parser = ArgumentParser("clf reproduce", description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a file of configs/experiment, without .yaml; lists them if left out")
    parser.add_argument("--all", action="store_true", help="list each setting, with its figures and their source")
    parser.add_argument("--run_dir", type=Path, help="directory of the run; runs/reproduce/NAME unless given")
    args, rest = parser.parse_known_args(argv)
    if args.name is None:
        _listing() if args.all else methods()
        return 0
    config = find(args.name)
    settings = precheck.of_config(["--config", str(config), *rest], data=False)
    path = args.run_dir or Path("runs", "reproduce", args.name)
    _check_same(path, settings)
    if not (path / "results.json").exists():
        _run(args.name, settings, path)
    results = summary.read_summary(path)
    assert results is not None
    return judge(published_for(config), msgspec.to_builtins(results))


def experiments() -> Path:
    """Return the folder of published settings, in a source tree or an installation."""
    return shipped.configs_folder() / "experiment"


def find(name: str) -> Path:
    """Return the config of a published setting.

    Raises:
        UserError: If there is none of that name.
    """
    path = experiments() / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        names = [p.stem for p in experiments().glob("*.yaml")]
        raise UserError(f"There is no published setting {name!r}. {did_you_mean(name, names)}")
    return path


def published_for(path: Path) -> Published:
    """Return the published figures of a config."""
    return Published(**yaml.safe_load(path.read_text(encoding="utf-8"))["published"])


def methods() -> None:
    """Print a line for each method: its first setting, how many there are, and how far off figures may be."""
    by_method: dict[str, list[tuple[str, Published]]] = {}
    for path in sorted(experiments().glob("*.yaml")):
        config = shorthand.read_config(path.read_text(encoding="utf-8"))
        strategy = config["model"]["strategy"]
        name = strategy if isinstance(strategy, str) else strategy["class_path"]
        by_method.setdefault(name.rpartition(".")[2], []).append((path.stem, Published(**config["published"])))
    rows = []
    for name, some in sorted(by_method.items()):
        off = sorted({published.tolerance for _, published in some})
        rows.append((name, some[0][0], str(len(some)), " to ".join(map(str, dict.fromkeys((off[0], off[-1]))))))
    grid.say_table(("method", "first setting", "settings", "± points"), rows, texts=2)
    say("--all lists each setting, with its figures and their source")


def _listing() -> None:
    """Print a line for each published setting: average incremental and final accuracy in percent, and the source."""
    rows = [
        (
            path.stem,
            it.source,
            *("-" if v is None else f"{v:.2f}" for v in (it.average_incremental_accuracy, it.final_accuracy)),
            f"{it.tolerance}",
        )
        for path in sorted(experiments().glob("*.yaml"))
        for it in [published_for(path)]
    ]
    grid.say_table(("setting", "source", "A-bar", "A_B", "±"), rows, texts=2)


def _missing(settings: Sequence[str]) -> list[str]:
    """Return what a config needs and this machine lacks: data and weights, each with what to do about it."""
    from cl_framework.configuration.experiment import build
    from cl_framework.configuration.parser import scenario_of
    from cl_framework.terminal.console import CONSOLE

    def problem(attempt: Any) -> str | None:
        try:
            attempt()
        except UserError as error:
            return str(error)
        return None

    def data() -> None:
        config = yaml.safe_load(Path(settings[1]).read_text(encoding="utf-8"))
        changed = [s for pair in _pairs(settings[2:]) for s in pair if pair[0].startswith("--data.scenario")]
        scenario_of(["--data.scenario", json.dumps(config["data"]["scenario"]), *changed])[0].fingerprint()

    return [p for p in (problem(lambda: build(settings, CONSOLE)), problem(data)) if p is not None]


def differences(was: Any, asked: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Return the settings in which two configs differ: dotted name, what was, and what is asked for.

    >>> differences({"lr": 0.1, "net": {"width": 2}}, {"lr": 0.1, "net": {"depth": 1, "width": 3}})
    [('net.depth', None, 1), ('net.width', 2, 3)]
    """
    if not (isinstance(was, dict) and isinstance(asked, dict)):
        return [] if was == asked else [(at, was, asked)]
    names = sorted({*was, *asked})
    return [d for k in names for d in differences(was.get(k), asked.get(k), f"{at}.{k}" if at else k)]


def _check_same(path: Path, settings: Sequence[str]) -> None:
    """Refuse settings other than those of the run that is there, which would have no effect on it."""
    from cl_framework.runs import relocation
    from cl_framework.runs.directory import RunDirectory
    from cl_framework.runs.manifest import MANIFEST

    if not (path / MANIFEST).exists():
        return
    from cl_framework.configuration.experiment import resolve

    was, asked = (
        {k: v for k, v in yaml.safe_load(text).items() if k not in NO_MATTER}
        for text in (RunDirectory.open(path).config, relocation.absolute(resolve(settings)))
    )
    if other := differences(was, asked):
        differing = ", ".join(f"{name} {before!r} instead of {now!r}" for name, before, now in other[:3])
        differing += ", ..." if other[3:] else ""
        raise UserError(
            f"{path} holds a run with {differing}; ask for what it has, choose another --run_dir, or delete it."
        )


def _pairs(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return each option with its value."""
    pairs: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("--") or not pairs:
            pairs.append((word,))
        else:
            pairs[-1] = (*pairs[-1], word)
    return pairs


def _run(name: str, settings: Sequence[str], path: Path) -> None:
    from cl_framework.cli import run

    if (path / "manifest.json").exists():
        run.resume([str(path)])
        return
    try:
        run.run([*settings, "--run_dir", str(path)])
    except UserError as error:
        if path.exists() or not (lacking := _missing(settings)):  # it began, or nothing is missing
            raise
        raise UserError(f"{name} cannot be reproduced yet. " + " ".join(lacking)) from error


def judge(published: Published, results: dict[str, Any]) -> int:
    """Compare results with published ones; return the exit code."""
    if trial := results.get("trial"):
        say(f"This is no result and is not compared: {trial} is a trial.")
        return 2
    judged = verdicts(published, results)
    rows = [
        (v.figure, f"{v.measured:.2f}", f"{v.published:.2f}", f"{v.tolerance}", "inside" if v.inside else "OUTSIDE")
        for v in judged
    ]
    grid.say_table(("figure", "measured", "published", "±", "verdict"), rows)
    say(f"published in {published.source}")
    return 0 if all(v.inside for v in judged) else 1

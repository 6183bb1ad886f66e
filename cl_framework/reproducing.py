"""The verb ``reproduce``: run a published setting, and say whether its figures come out."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework import precheck, shipped, summary
from cl_framework.errors import UserError, did_you_mean
from cl_framework.printable import say
from cl_framework.published import Published, verdicts

DESCRIPTION = """Run a published setting and say inside or outside: whether its figures come out within the tolerance.

Without a name, list the settings there are. What follows the name changes the config as in `clf run`. Nothing is
fetched unless asked for; what is missing is named, with the place where it belongs. A stopped run goes on, and a
finished one is judged again, if the settings asked for are those it was started with.

  clf reproduce simplecil_cifar100_inc5
  clf reproduce ease_cifar100_inc5 --model.backbone.download true --data.scenario.dataset torchvision:CIFAR100:download=true
  clf reproduce mos_cub200_inc10 --data.scenario.dataset imagefolder:PATH --config configs/trainer/gpu_bf16.yaml

Exit code 0: inside. 1: outside. 2: something is missing."""  # noqa: E501

NO_MATTER = ("published", "run_dir", "features", "features_limit", "threads")
"""Sections of a config that change no figure of a run."""


def reproduce(argv: Sequence[str]) -> int:
    """Carry out ``clf reproduce``."""
    parser = ArgumentParser("clf reproduce", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a file of configs/experiment, without .yaml; lists them if left out")
    parser.add_argument("--run_dir", type=Path, help="directory of the run; runs/reproduce/NAME unless given")
    args, rest = parser.parse_known_args(argv)
    if args.name is None:
        say(listing())
        return 0
    config = find(args.name)
    settings = precheck.of_config(["--config", str(config), *rest], data=False)
    path = args.run_dir or Path("runs", "reproduce", args.name)
    _check_same(path, settings)
    if not (path / "results.json").exists():
        _run(args.name, settings, path)
    found = summary.read(path)
    assert found is not None
    return _judge(told(config), msgspec.to_builtins(found))


def experiments() -> Path:
    """Return the folder of published settings, in a source tree or an installation."""
    return shipped.folder() / "experiment"


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


def told(path: Path) -> Published:
    """Return what was published for a config."""
    return Published(**yaml.safe_load(path.read_text(encoding="utf-8"))["published"])


def listing() -> str:
    """Return a line for each published setting: average incremental and final accuracy in percent, and the source."""
    paths, lines = sorted(experiments().glob("*.yaml")), []
    wide = 1 + max(len(path.stem) for path in paths)
    for path in paths:
        it = told(path)
        figures = [
            f"{'-' if v is None else f'{v:.2f}':>6}" for v in (it.average_incremental_accuracy, it.final_accuracy)
        ]
        lines.append(f"{path.stem:<{wide}}{' '.join(figures)}  ± {it.tolerance:<4} {it.source}")
    return "\n".join([f"{'setting':<{wide}}{'A-bar':>6} {'A_B':>6}", *lines])


def missing(settings: Sequence[str]) -> list[str]:
    """Return what a config needs and this machine lacks: data and weights, each with what to do about it."""
    from cl_framework.console import CONSOLE
    from cl_framework.experiment import build, scenario_of

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
    from cl_framework.manifest import MANIFEST
    from cl_framework.run import Run

    if not (path / MANIFEST).exists():
        return
    from cl_framework.experiment import resolve

    was, asked = (
        {k: v for k, v in yaml.safe_load(text).items() if k not in NO_MATTER}
        for text in (Run.open(path).config, resolve(settings))
    )
    if other := differences(was, asked):
        told = ", ".join(f"{name} {before!r} instead of {now!r}" for name, before, now in other[:3])
        told += ", ..." if other[3:] else ""
        raise UserError(f"{path} holds a run with {told}; ask for what it has, choose another --run_dir, or delete it.")


def _pairs(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return each option with its value."""
    found: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append((word,))
        else:
            found[-1] = (*found[-1], word)
    return found


def _run(name: str, settings: Sequence[str], path: Path) -> None:
    from cl_framework import commands

    if (path / "manifest.json").exists():
        commands.resume([str(path)])
        return
    try:
        commands.run([*settings, "--run_dir", str(path)])
    except UserError as error:
        if path.exists() or not (lacking := missing(settings)):  # it began, or nothing is missing
            raise
        raise UserError(f"{name} cannot be reproduced yet. " + " ".join(lacking)) from error


def _judge(published: Published, results: dict[str, Any]) -> int:
    outside = 0
    for v in verdicts(published, results):
        outside += not v.inside
        word = "inside" if v.inside else "OUTSIDE"
        say(f"{v.figure:<30} {v.measured:6.2f}  published {v.published:6.2f} ± {v.tolerance}  {word}")
    say(f"{'published in':<30} {published.source}")
    return 1 if outside else 0

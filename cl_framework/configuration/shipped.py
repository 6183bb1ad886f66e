"""Configs that come with the package, found by name wherever one works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_framework.errors import UserError, did_you_mean

FLAGS = ("--config", "-c")


def configs_folder() -> Path:
    """Return where the configs lie: in the package once installed, beside it in a source tree."""
    here = Path(__file__).resolve().parents[1]
    return next(p for p in (here / "configs", here.parent / "configs") if p.is_dir())


def locate_config(given: str) -> str:
    """Return the path of a config: of a file where one works, else of one that came with the package.

    ``quickstart``, ``quickstart.yaml`` and ``configs/quickstart.yaml`` name the same; so do ``backbone/minilm`` and,
    where no other config is called so, ``minilm``. Text that is no name, such as YAML itself, is returned as it is.

    Raises:
        UserError: If there is none, saying what is close.
    """
    if is_text(given) or Path(given).expanduser().is_file():
        return given
    if Path(given).expanduser().is_dir():
        raise UserError(
            f"{given} is a folder; give a config, such as quickstart, and a folder of pictures with "
            f"`--data.scenario ClassIncremental --data.scenario.dataset imagefolder:{given}`."
        )
    name = given.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    matches = [p for p in _shipped() if name in (p.stem, str(p.relative_to(configs_folder()).with_suffix("")))]
    exact = [p for p in matches if p == configs_folder() / f"{name}.yaml"]
    if len(exact or matches) == 1:
        return str((exact or matches)[0])
    if matches:
        names = ", ".join(sorted(str(p.relative_to(configs_folder()).with_suffix("")) for p in matches))
        raise UserError(f"Several configs are called {given}: {names}; say which.")
    for asked, known in ((given, _near(Path(given))), (name, [p.stem for p in _shipped()])):
        if (hint := did_you_mean(asked, known)).startswith("Did"):
            raise UserError(f"There is no file {given}. {hint}")
    raise UserError(f"There is no file {given}; give the path of a config that exists, or a name such as quickstart.")


def with_paths(words: Sequence[str]) -> list[str]:
    """Return a command line in which every ``--config NAME`` is the path of a file; words in front count as names.

    Raises:
        UserError: If a config is not found.
    """
    lead = next((i for i, w in enumerate(words) if w.startswith("-")), len(words))
    expanded = [w for name in words[:lead] for w in ("--config", locate_config(name))]
    rest = iter(words[lead:])
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in FLAGS and equals:
            expanded.append(f"{flag}={locate_config(value)}")
        elif word in FLAGS:
            expanded += [word, *(locate_config(value) for value in [next(rest, None)] if value is not None)]
        else:
            expanded.append(word)
    return expanded


def _shipped() -> list[Path]:
    """Return every config there is; files of comparisons are none."""
    return [p for p in configs_folder().rglob("*.yaml") if p.parent.name != "compare"]


def is_text(given: str) -> bool:
    """Tell whether what stands for a config is YAML itself rather than a name or a path."""
    return "\n" in given or "{" in given or ": " in given


def _near(path: Path) -> list[str]:
    """Return the YAML files beside a path that does not exist, spelled as the path is."""
    try:
        return [str(p) for p in path.expanduser().parent.glob("*.y*ml")]
    except OSError:
        return []

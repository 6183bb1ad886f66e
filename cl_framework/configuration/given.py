"""A config as given, in files and on the command line, checked before anything heavy is imported.

What is refused here is certainly wrong. The full parser reads what passes; where it refuses something, the same
judgement is asked again, now that everything it does not know is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration import accepted, messages, shipped, shorthand, written
from cl_framework.configuration.flags import left_over, options
from cl_framework.configuration.values import Values
from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import declared, ranges, trust

_ORDER = ("trainer", "model", "data")
"""Sections in the order in which their numbers are told."""
SCENARIO = "data.scenario"


@final
class Given:
    """The settings that a command line and the configs it names amount to.

    Attributes:
        values: Plain values by dotted name; of those that were given twice the later.
        sections: Sections or parts of them that may be set.
    """

    def __init__(self, sections: Sequence[str] = (), certain: bool = False, whole: bool = True) -> None:
        """Begin with nothing.

        Args:
            sections: What may be set, such as ``data.scenario``; all unless given.
            certain: Whether what is not known is known to be wrong.
            whole: Whether this is a config from its beginning; else it changes one whose classes are not known here.
        """
        self.values: dict[str, Any] = {}
        self.sections, self._judged, self._asks = sections, Values(certain, whole), False

    def words(self, words: Sequence[str]) -> Given:
        """Take up a command line whose configs are paths, and return itself.

        Raises:
            UserError: If something in it is certainly wrong.
        """
        if stray := left_over(words):
            raise UserError(f"{stray!r} is too much; a value follows the name of its setting, as in --threads 2.")
        for name, text in options(words):
            self.option(name, text)
        return self

    def option(self, name: str, text: str | None) -> None:
        """Take up an option of the command line.

        Raises:
            UserError: If it is certainly wrong.
        """
        if name.endswith(".help") or name in ("help", "help-all", "print_config"):
            self._asks = True
            return
        if text is None and name not in accepted.VALUELESS:
            self._check_key(name)
            raise UserError(f"--{name} needs a value.")
        if name in accepted.VALUELESS and text is not None:
            raise UserError(f"--{name} takes no value; found {text!r}.")
        if name == "config":
            self._file(text or "")
        elif text is not None:
            self.take(name, _read(text), typed=True)

    def take(self, name: str, value: Any, typed: bool = False) -> None:
        """Take up a setting by its dotted name.

        Raises:
            UserError: If it is certainly wrong.
        """
        section, _, rest = name.partition(".")
        if section in accepted.SECTIONS and not rest:
            self._section(section, value)
            return
        self._check_key(name)
        key, *deeper = rest.split(".") if section in accepted.SECTIONS else [section, *filter(None, [rest])]
        place, kind = key, None
        if section in accepted.SECTIONS:
            place, kind = f"{section}.{key}", accepted.section(section)[key].kind
        self._judged.take(place, kind or accepted.other_settings()[section].kind, deeper, value, typed)
        self._note(name.replace(".init_args.", "."), value)

    def check(self) -> None:
        """Refuse what only the whole shows: settings that lack, numbers out of range, names that are not there.

        Raises:
            UserError: If something is certainly wrong.
        """
        if not self._asks:
            for sentence in self._judged.missing():
                raise UserError(sentence)
        by_section = sorted(self.values, key=lambda k: [k.startswith(f"{s}.") for s in reversed(_ORDER)])
        ranges.check_numbers({k: self.values[k] for k in by_section if not k.startswith("published")})
        _check_backbone(self.values)

    def check_trust(self) -> None:
        """Refuse names of classes where the full parser alone can tell that a class is meant.

        Raises:
            UserError: If one is not trusted.
        """
        for name in self._judged.open:
            if "." in name and all(word.isidentifier() for word in name.split(".")):
                trust.require(name)

    def check_scenario(self, who: str) -> None:
        """Refuse to go on without a scenario.

        Args:
            who: What needs one, for the message.

        Raises:
            UserError: If none is named.
        """
        if not {"data", SCENARIO} & self.values.keys() and not self._asks:
            raise UserError(
                f"{who} needs a scenario, such as --data.scenario ClassIncremental --data.scenario.dataset "
                "imagefolder:PATH; `clf list scenarios` names them."
            )

    @property
    def dataset(self) -> str | None:
        """Return the data source that the scenario reads, if one is named."""
        named = [v for k, v in self.values.items() if k.startswith(SCENARIO) and k.endswith(".dataset")]
        return str(named[-1]) if named and isinstance(named[-1], str) else None

    def _file(self, path: str) -> None:
        """Take up a config: a file, or YAML itself."""
        read = written.yaml_of(path)
        if not isinstance(read, Mapping):
            name = "The config on the command line" if shipped.is_text(path) else path
            raise UserError(
                f"{name} must hold a table of sections, such as model: and data:; found {messages.as_written(read)}."
            )
        for section, value in read.items():
            self.take(str(section), value)

    def _section(self, section: str, value: Any) -> None:
        """Take up a whole section."""
        if isinstance(value, str) and Path(value).suffix in (".yaml", ".yml"):
            value = written.yaml_of(value)
        if not isinstance(value, Mapping):
            some = ", ".join([*accepted.section(section)][:3])
            raise UserError(
                f"{section} must be a table of settings, such as {some}; found {messages.as_written(value)}."
            )
        for key, inner in value.items():
            self.take(f"{section}.{key}", inner)

    def _check_key(self, name: str) -> None:
        section, _, rest = name.partition(".")
        known = accepted.section(section) if section in accepted.SECTIONS else {}
        key = rest.partition(".")[0]
        if (
            key not in known
            and section not in accepted.other_settings()
            and not (section in accepted.SECTIONS and not rest)
        ):
            asked = f"{section}.{key}" if section in accepted.SECTIONS else name
            raise UserError(messages.no_key(asked, accepted.section_keys(), [*accepted.other_settings()]))
        if self.sections and not any(f"{name}.".startswith(f"{s}.") for s in self.sections):
            raise UserError(f"--{name} is not taken here. {did_you_mean(name, self.sections)}")

    def _note(self, name: str, value: Any) -> None:
        """Keep plain values; another class takes away the settings of the one before."""
        name = name.removesuffix(".class_path").removesuffix(".init_args")
        value = shorthand.spelled_out(value) if name == "model.backbone" else value
        if isinstance(value, str) or (isinstance(value, Mapping) and "class_path" in value):
            self.values = {k: v for k, v in self.values.items() if not k.startswith(f"{name}.")}
        for key, inner in leaves(name, value):
            self.values[key.removesuffix(".class_path")] = inner


def leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return dotted names and values below a setting, spelled as the command line does.

    >>> leaves("model.optimizer", {"class_path": "SGD", "init_args": {"lr": 0.1}})
    [('model.optimizer.class_path', 'SGD'), ('model.optimizer.lr', 0.1)]
    """
    if not isinstance(value, Mapping):
        return [(name, value)]
    below = ((name if key == "init_args" else f"{name}.{key}", inner) for key, inner in value.items())
    return [leaf for key, inner in below for leaf in leaves(key, inner)]


def check_inputs(files: Sequence[str]) -> None:
    """Refuse what is no file where files are to be read.

    Raises:
        UserError: If one is missing or a folder.
    """
    for file in map(Path, files):
        if file.is_dir():
            raise UserError(f"{file} is a folder; give the files in it, as in {file}/*.")
        if not file.exists():
            raise UserError(f"There is no file {file}; give files that are there.")


def _read(text: str) -> Any:
    """Return what the text of an option stands for; text that is no YAML is text."""
    try:
        return shorthand.read_config(text)
    except yaml.YAMLError:
        return text


def _check_backbone(values: Mapping[str, Any]) -> None:
    """Refuse names of timm's models and paths of weights that are not there."""
    kind = str(values.get("model.backbone", "")).rpartition(".")[2]
    name, weights = values.get("model.backbone.name"), values.get("model.backbone.weights")
    if kind == "Timm" and isinstance(name, str):
        declared.check_timm(name)
    if kind == "Timm" and isinstance(weights, str):
        declared.check_weights(Path(weights))
    if kind == "HuggingFace" and isinstance(name, str):
        declared.check_folder(name)

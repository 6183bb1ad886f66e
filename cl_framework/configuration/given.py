"""Values that a config gives, judged as far as its source files tell: numbers, types, and what libraries name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from cl_framework.configuration import messages
from cl_framework.errors import UserError
from cl_framework.settings import declared, ranges, signatures, trust

_PLAIN = {"int": "int", "float": "float", "bool": "bool", "None": "nothing"}
"""Types whose values can be told from their text, and what messages call them."""

SECTIONS = ("trainer", "model", "data")
"""In the order in which the full parser checks them."""


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values below a setting, spelled as the command line does.

    >>> list(leaves("model.optimizer", {"class_path": "SGD", "init_args": {"lr": 0.1}}))
    [('model.optimizer.class_path', 'SGD'), ('model.optimizer.lr', 0.1)]
    """
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from leaves(name if key == "init_args" else f"{name}.{key}", inner)


@final
class Given:
    """The values of settings by dotted name; of those that were given twice the later."""

    def __init__(self) -> None:
        """Begin with none."""
        self.values: dict[str, Any] = {}

    def take(self, name: str, value: Any) -> None:
        """Take up a setting; another class takes away the settings of the one before."""
        name = name.removesuffix(".class_path")
        if isinstance(value, str) or (isinstance(value, Mapping) and "class_path" in value):
            self.values = {k: v for k, v in self.values.items() if not k.startswith(f"{name}.")}
        for key, inner in leaves(name, value):
            self.values[key.removesuffix(".class_path")] = inner

    def check(self) -> None:
        """Refuse what is certainly wrong, in the sentences of those who read it later.

        Raises:
            UserError: If something is.
        """
        if not trust.trusted():  # what is trusted may bring names of its own
            for name, value in self.values.items():
                _check_class(name, value)
        told = sorted(self.values, key=lambda k: [k.startswith(f"{s}.") for s in reversed(SECTIONS)])
        ranges.check_numbers({k: self.values[k] for k in told if not k.startswith("published")})
        _check_backbone(self.values)

    def check_scenario(self, who: str) -> None:
        """Refuse to go on without a scenario.

        Args:
            who: What needs one, for the message.

        Raises:
            UserError: If none is named.
        """
        if not {"data", "data.scenario"} & self.values.keys():
            raise UserError(
                f"{who} needs a scenario, such as --data.scenario ClassIncremental --data.scenario.dataset "
                "imagefolder:PATH; `clf list scenarios` names them."
            )


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


def check_type(name: str, value: Any, annotation: str | None) -> None:
    """Refuse a word where a setting takes numbers, yes or no only.

    >>> check_type("model.adapter.width", "three", "int | None")
    Traceback (most recent call last):
    cl_framework.errors.UserError: model.adapter.width must be int or nothing; found 'three'.

    Raises:
        UserError: If it is one.
    """
    kinds = signatures.alternatives(annotation or "")
    if not isinstance(value, str) or not kinds or not _PLAIN.keys() >= kinds.keys():
        return
    try:
        float(value)
    except ValueError:
        right = " or ".join(_PLAIN[kind] for kind in kinds)
        raise UserError(f"{name} must be {right}; found {value!r}.") from None


def _check_class(name: str, value: Any) -> None:
    """Refuse a class of a library that is close to one that there is."""
    module = messages.ELSEWHERE.get(name.rpartition(".")[2])
    if module is None or name.count(".") != 1:
        return
    each = value if isinstance(value, list) else [value]
    for one in each:
        found = one.get("class_path") if isinstance(one, Mapping) else one
        known = declared.classes_in(module)
        if not isinstance(found, str) or not found.isidentifier() or not known or found in known:
            continue
        if found.islower() and name == "model.schedule":  # constant, cosine, ...
            continue
        if "Did you mean" in (said := messages.no_class(name, found)):
            raise UserError(said)


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

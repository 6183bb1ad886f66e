"""One sentence about what is wrong with a config, from what the argument parser said."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence

from cl_framework.configuration.shorthand import SHORT
from cl_framework.errors import did_you_mean
from cl_framework.settings.declared import classes_in, known_to_timm
from cl_framework.settings.discovery import KINDS, catalogue
from cl_framework.settings.trust import refusal

# The parser nests its causes, the innermost last; each pattern is one kind of mistake.
NO_CLASS = re.compile(r"Expected a dot import path string: (?P<found>\S+)")
NO_OPTION = re.compile(r"Option '(?P<found>[^']+)' is not accepted")
NO_KEY = re.compile(
    r"(?:unrecognized arguments: --(?P<flag>[^\s=]+))|"
    r"(?:Group '(?P<group>\w+)' does not accept option '(?P<key>[^']+)')"
)
DENIED = re.compile(r"Importing '(?P<path>[\w.]+)' is not allowed")
MISSING = re.compile(r"the following arguments are required: (?P<found>.+)")
NO_FILE = re.compile(r"File does not exist: '?(?P<found>[^']+)'?")
NO_YAML = re.compile(r"Problems parsing config: (?P<cause>.+?)\s+in .*?line (?P<line>\d+)", re.DOTALL)
KEY, CLASS = re.compile(r'Parser key "([^"]+)"'), re.compile(r"given class_path '([^']+)'")
NO_ATTRIBUTE = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<found>\w+)'")
ALTERNATIVES = re.compile(r"Errors:\n(?P<errors>.+?)\n *Given value type: .*Given value: (?P<found>[^\n]+)", re.DOTALL)
OTHER_TYPE = re.compile(r"does not (?:correspond to a subclass|implement protocol)")
ONE_OF = re.compile(r"Expected a typing\.Literal\[(?P<choices>[^\]]+)\]\. (?:Got|Given) value: (?P<found>.+)")
EXPECTED = re.compile(r"Expected an? <class '(?P<type>[^']+)'>")
GIVEN = re.compile(r"(?:Got value|Given value): (?P<found>.+)")
CHOICES = re.compile(r"Expected a typing\.Literal\[(?P<choices>[^\]]+)\]")
PACKAGE = re.compile(r"Requirement '(?P<package>[^']+)' not met|No module named '(?P<module>\w+)")
SEVERAL = re.compile(r"Multiple subclasses with name (?P<name>\w+)\. .*? ambiguity: (?P<paths>[\w., ]+)\.(?:\s|$)")
REASON = re.compile(r"Problem with given class_path '[^']+':\n *(?! |Parser key|Does not|Problem)(?P<why>[^\n]+)")
ELSEWHERE = {
    "logger": "pytorch_lightning.loggers",
    "callbacks": "pytorch_lightning.callbacks",
    "optimizer": "torch.optim",
    "schedule": "torch.optim.lr_scheduler",
}
"""Settings whose classes come from a library, and the package that has them."""
NUMBER = re.compile(r"Not of type (?P<type>\w+): (?:invalid value, )?(?:could not [^:]+: )?(?P<found>\S+)")
NUMBERS = {"PositiveInt": "a whole number of at least 1", "PositiveFloat": "above 0"}
ROLES = {**{base.lower(): kind for kind, base in KINDS.items()}, "stream": "scenarios"}


def explain(message: str, sections: Mapping[str, Sequence[str]]) -> str:
    """Return the cause in one sentence, with the closest name that would be right.

    Args:
        message: What the parser said.
        sections: The keys of each section of a config.
    """
    if m := DENIED.search(message):
        return refusal(m["path"])
    return _mistake(_closest(message), sections)


def _mistake(message: str, sections: Mapping[str, Sequence[str]]) -> str:
    """Return what is wrong with a config that names nothing forbidden."""
    where = ".".join(KEY.findall(message))
    owner = (CLASS.findall(message) or [""])[-1]
    name = owner.rpartition(".")[2] or where
    if said := _library(where, name, message):
        return said
    if m := NO_CLASS.search(message):
        return no_class(where, m["found"])
    if m := NO_ATTRIBUTE.search(message):
        names = [n for n, v in vars(importlib.import_module(m["module"])).items() if inspect.isclass(v)]
        return f"{where}: there is no {m['module']}.{m['found']}. {did_you_mean(m['found'], names)}"
    if (m := NO_OPTION.search(message)) and not owner:
        return no_key(m["found"], sections)
    if m:
        return no_setting(name, m["found"], _settings(owner))
    if m := NO_KEY.search(message):
        return no_key(m["flag"] or f"{m['group']}.{m['key']}", sections)
    if m := MISSING.search(message):
        options = " ".join(f"--{f'{where}.{need}'.lstrip('.')} ..." for need in m["found"].split(", "))
        who = (where if name == where else f"{where}: {name}") or "A config"
        return f"{who} needs {m['found']}; set it, as in {options}"
    return _no_config(message) or _no_value(where, name, message) or " ".join(message.split())


def _no_config(message: str) -> str | None:
    """Return which file is missing, or what in it is no YAML."""
    if m := NO_FILE.search(message):
        return f"There is no file {m['found']}; give the path of a config that exists."
    if m := NO_YAML.search(message):
        return f"A config is not valid YAML near line {m['line']}: {' '.join(m['cause'].split())}."
    return None


def _library(where: str, name: str, message: str) -> str | None:
    """Return which package a class lacks, or which of several classes may be meant."""
    if m := PACKAGE.search(message):
        package = m["package"] or m["module"]
        return f"{name} needs a package that is not installed: `pip install '{package}'`, or choose another class."
    if m := SEVERAL.search(message):
        paths = m["paths"].replace(", ", " or ")
        return f"{where}: there are several classes {m['name']}; give the full path: {paths}."
    return None


def _closest(message: str) -> str:
    """Return what matters where a value may be of several types: what the type that the value names had against it."""
    m = ALTERNATIVES.search(message)
    if not m or not OTHER_TYPE.search(m["errors"]):
        return message
    objections = [e for e in re.split(r"^ *- ", m["errors"], flags=re.MULTILINE) if e.strip()]
    no_class = f"Expected a dot import path string: {m['found']}"
    closest = next((e for e in objections if not OTHER_TYPE.search(e)), no_class)
    return message[: m.start()].partition("Does not validate")[0] + closest


def _no_value(where: str, name: str, message: str) -> str | None:
    """Return what a setting may be, if the parser refused its value, or what a class had against its own."""
    if m := REASON.search(message):
        return f"{name}: {m['why']}"
    if m := ONE_OF.search(message):
        choices = [str(c) for c in ast.literal_eval(f"[{m['choices']}]")]
        return f"{where} cannot be {m['found']!r}. {did_you_mean(m['found'], choices)}"
    given = GIVEN.findall(message)
    if m := NUMBER.search(message):
        found = given[-1] if given else m["found"]
        return f"{where} must be {NUMBERS.get(m['type'], m['type'])}; found {found}."
    if given and (sets := CHOICES.findall(message)):
        choices = list(dict.fromkeys(str(c) for each in sets for c in ast.literal_eval(f"[{each}]")))
        return f"{where} cannot be {given[-1]!r}. {did_you_mean(given[-1], choices)}"
    if (types := EXPECTED.findall(message)) and given:
        right = " or ".join(dict.fromkeys("nothing" if t == "NoneType" else t for t in types))
        return f"{where} must be {right}; found {given[-1]!r}."
    return None


def no_setting(owner: str, found: str, known: Sequence[str]) -> str:
    """Say that a class takes no such setting."""
    hint = did_you_mean(found, known) if known else "It takes none."
    return f"{owner} has no setting {found!r}. {hint}"


def no_yaml(path: str, error: Exception) -> str:
    """Say where a config file is no YAML."""
    mark = getattr(error, "problem_mark", None)
    where = f" near line {mark.line + 1}" if mark else ""
    cause = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    return f"{path} is not valid YAML{where}: {cause}."


def no_class(where: str, found: str) -> str:
    """Say that there is no class of that name for the setting ``where``."""
    role = where.rpartition(".")[2]
    if role in ROLES:
        names = [entry.name for entry in catalogue(ROLES[role])]
        if role == "backbone" and ":" in found:
            names = [f"{short}:{found.partition(':')[2]}" for short in SHORT]
        if role == "backbone" and ":" not in found and found and known_to_timm(found):
            return f"There is no backbone {found!r}. For a model of timm's, write timm:{found}."
        return f"There is no {role} {found!r}. {did_you_mean(found, names)}"
    if found.lstrip("+-").lower() in {"nan", "inf", "infinity"}:
        return f"{where} must be a finite number; found {found}."
    names = list(classes_in(ELSEWHERE.get(role.partition("[")[0], "")))
    hint = did_you_mean(found, names) if names else ""
    close = hint if hint.startswith("Did") else "Give its import path, such as torch.optim.SGD."
    return f"{where}: there is no class {found!r}. {close}"


def no_key(key: str, sections: Mapping[str, Sequence[str]]) -> str:
    """Say that a config has no such key."""
    known = [f"{section}.{name}" for section, names in sections.items() for name in names]
    known += [*sections, "run_dir", "threads", "config", "seed_everything", "print_config"]
    hint = did_you_mean(key, known)
    return f"There is no setting {key!r}. " + (hint if hint.startswith("Did") else "`clf run --help` lists them.")


def _settings(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError):
        return []
    taken = inspect.signature(found).parameters.values()
    return [p.name for p in taken if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]

"""From a name such as `digits`, `glyphs:classes=50` or `imagefolder:PATH` to its data."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from inspect import Parameter, signature

from cl_framework.errors import UserError, did_you_mean
from cl_framework.survey import refusal
from scenarios.data.source import HELD, Source

LOADERS = {
    "digits": "digits",
    "glyphs": "glyphs",
    "torchvision": "torchvision_sets",
    "imagefolder": "imagefolder",
    "csv": "table",
    "json": "records",
}
FORM = re.compile(r"(?P<subject>.*?)(?:(?:^|:)(?P<options>\w+=[^,]*(?:,\w+=[^,]*)*))?", re.DOTALL)


def open_source(spec: str, faults: list[str] | None = None) -> Source:
    """Open the data that ``spec`` names.

    Args:
        spec: ``NAME``, ``NAME:SUBJECT``, and options after a colon, as in ``digits:seed=3``,
            ``glyphs:classes=50,train=40``, ``torchvision:CIFAR100:download=true``, ``imagefolder:PATH:test=0.3`` or
            ``csv:FILE``, ``json:FILE``; the options of a name are the arguments of its ``load``.
        faults: Where to note what is wrong with single samples, which are then left out; otherwise they are refused.

    Raises:
        UserError: If the name or an option is unknown, the subject is missing, or the data cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind not in LOADERS:
        raise UserError(f"There is no data source {kind!r}. {did_you_mean(kind, LOADERS)}")
    load = import_module(f"scenarios.data.{LOADERS[kind]}").load
    form = FORM.fullmatch(rest)
    subject, written = (form["subject"], form["options"] or "") if form else (rest, "")
    takes = dict(signature(load).parameters)
    notes = takes.pop("faults", None) is not None
    named = [p for p in takes.values() if p.default is Parameter.empty]
    if named and not subject:
        raise UserError(f"{kind} needs a {named[0].name} after a colon, as in {kind}:{named[0].name.upper()}.")
    if subject and not named:
        raise UserError(f"{kind} takes options such as {kind}:seed=1, found {subject!r}.")
    options = {k: p for k, p in takes.items() if p.default is not Parameter.empty}
    chosen: dict[str, object] = {}
    for key, _, text in (o.partition("=") for o in written.split(",") if o):
        if key not in options:
            raise UserError(f"{kind} has no option {key!r}. {did_you_mean(key, options)}")
        chosen[key] = parsed(f"{kind}:{key}", text, options[key].default)
    found: list[str] = []
    try:
        source: Source = load(*([subject] if named else []), **chosen, **({"faults": found} if notes else {}))
    except UserError as error:
        if found:  # what is wrong with the whole may come of it
            raise refusal([*found, str(error)]) from error
        raise
    if faults is None and found:
        raise refusal(found)
    faults = [] if faults is None else faults
    faults += found
    return replace(source, name=spec)


def parsed(name: str, text: str, default: object) -> object:
    """Read ``text`` as a value of the default's type; where that is None, as a share.

    >>> parsed("digits:seed", "3", 0), parsed("torchvision:download", "true", False), parsed("json:test", "0.3", None)
    (3, True, 0.3)
    """
    default = HELD if default is None else default
    kind = type(default)
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)  # type: ignore[call-arg]
    except (ValueError, KeyError) as e:
        raise UserError(f"{name} takes a value such as {str(default).lower()}, found {text!r}.") from e

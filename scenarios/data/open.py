"""From a name such as `digits`, `glyphs:classes=50` or `imagefolder:PATH` to its data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import LoaderFile, data_loaders
from scenarios.data import presence

if TYPE_CHECKING:
    from scenarios.data.source import Source

FORM = re.compile(r"(?P<subject>.*?)(?:(?:^|:)(?P<options>\w+=[^,]*(?:,\w+=[^,]*)*))?", re.DOTALL)


def open_source(spec: str, faults: list[str] | None = None, exam: bool = True) -> Source:
    """Open the data that ``spec`` names.

    Args:
        spec: ``NAME``, ``NAME:SUBJECT``, and options after a colon, as in ``digits:seed=3``,
            ``glyphs:classes=50,train=40``, ``torchvision:CIFAR100:download=true``, ``imagefolder:PATH:test=0.3`` or
            ``csv:FILE``, ``json:FILE``; the options of a name are the arguments of its ``load``.
        faults: Where to note what is wrong with single samples, which are then left out; otherwise they are refused.
        exam: Whether there must be something to be examined on where a share of the data is held out for that.

    Raises:
        UserError: If the name or an option is unknown, the subject is missing, or the data cannot be read.
    """
    kind, subject, written = asked(spec)
    load = _loader(spec).function()
    takes = signature(load).parameters
    chosen = {key: _parsed(f"{kind}:{key}", text, takes[key].default) for key, text in written.items()}
    source = replace(_loaded(load, subject, chosen, faults), name=spec)
    if exam:
        source.check_exam()
    return source


def anchored(spec: str) -> tuple[str, str, str]:
    """Return what stands for ``spec`` wherever it is read from.

    Returns:
        The same with absolute paths; the folder that it reads below, nothing if it names none; and its name without
        any path, for keys.

    >>> anchored("glyphs:classes=4"), anchored("imagefolder:/data/pets:test=0.3")
    (('glyphs:classes=4', '', 'glyphs:classes=4'), ('imagefolder:/data/pets:test=0.3', '/data/pets', 'imagefolder'))
    """
    kind, subject, options = _taken_apart(spec)
    for name in ("exam", "root"):
        if options.get(name):
            options[name] = str(Path(options[name]).expanduser().absolute())
    reads = _loader(spec).loader.reads
    if not reads:
        return _put_together(kind, subject, options), "", _put_together(kind, subject, options | {"root": ""})
    path = Path(subject).expanduser().absolute()
    root = path if reads == "folder" else path.parent
    return _put_together(kind, str(path), options), str(root), kind


def paths_in(spec: str) -> list[str]:
    """Return the files or folders that ``spec`` names, as they are written.

    >>> paths_in("csv:said.csv:exam=more.csv,seed=1")
    ['said.csv', 'more.csv']
    """
    _, subject, options = _taken_apart(spec)
    return [path for path in (subject if _loader(spec).loader.reads else "", options.get("exam", "")) if path]


def _taken_apart(spec: str) -> tuple[str, str, dict[str, str]]:
    """Return a source's name, subject and options, unchecked."""
    kind, _, rest = spec.partition(":")
    form = FORM.fullmatch(rest)
    subject, written = (form["subject"], form["options"] or "") if form else (rest, "")
    pairs = (o.partition("=") for o in written.split(",") if o)
    return kind, subject, {key: text for key, _, text in pairs}


def _put_together(kind: str, subject: str, options: Mapping[str, str]) -> str:
    return ":".join(filter(None, (kind, subject, ",".join(f"{k}={v}" for k, v in options.items() if v))))


def _loaded(load: Any, subject: str, chosen: dict[str, object], faults: list[str] | None) -> Source:
    """Load, noting what is wrong with single samples where the loader can and the caller wants that."""
    from cl_framework.streams import unreadable_error

    noted: list[str] = []
    notes = {"faults": noted} if "faults" in signature(load).parameters else {}
    try:
        source: Source = load(*([subject] if subject else []), **chosen, **notes)
    except UserError as error:
        if noted:  # what is wrong with the whole may come of it
            raise unreadable_error(noted, str(error)) from error
        raise
    if faults is None and noted:
        raise unreadable_error(noted)
    faults = [] if faults is None else faults
    faults += noted
    return source


def _loader(spec: str) -> LoaderFile:
    """Return what loads the data that ``spec`` names.

    Raises:
        UserError: If there is none.
    """
    kind = spec.partition(":")[0]
    if loader := data_loaders.loader_of(kind):
        return loader
    spelling = presence.spelled(spec)
    known = (each.loader.prefix for each in data_loaders.loader_files())
    hint = f"For these data, write {spelling}." if spelling else did_you_mean(kind, known)
    raise UserError(f"There is no data source {kind!r}. {hint}")


def asked(spec: str) -> tuple[str, str, dict[str, str]]:
    """Take apart what names data, and check it as far as that needs no reading: nothing heavy is imported.

    Returns:
        The source's name, its subject (empty if it has none), and its options as written.

    Raises:
        UserError: If the name or an option is unknown, or the subject is missing, not wanted or not there.
    """
    kind, subject, chosen = _taken_apart(spec)
    loader = _loader(spec)
    if loader.subject and not subject:
        raise UserError(f"{kind} needs a {loader.subject} after a colon, as in {kind}:{loader.subject.upper()}.")
    if subject and not loader.subject:
        raise UserError(f"{kind} takes options such as {kind}:seed=1, found {subject!r}.")
    for key in chosen:
        if key not in loader.options:
            raise UserError(f"{kind} has no option {key!r}. {did_you_mean(key, loader.options)}")
    presence.check_present(loader.loader, subject)
    return kind, subject, chosen


def _parsed(name: str, text: str, default: object) -> object:
    """Read ``text`` as a value of the default's type; where that is None, as a share.

    >>> _parsed("digits:seed", "3", 0), _parsed("json:test", "0.3", None)
    (3, 0.3)
    """
    if default is None:
        from scenarios.data.source import HELD_OUT

        default = HELD_OUT
    kind = type(default)
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)  # type: ignore[call-arg]
    except (ValueError, KeyError) as e:
        raise UserError(f"{name} takes a value such as {str(default).lower()}, found {text!r}.") from e

"""Discovery: a method is a file in a plugin package. Nothing is registered, and listing imports nothing.

Our own packages lie beside ``cl_framework``, in a source tree and in an installation alike; others are announced by
entry points of the group ``cl_framework.settings.discovery``, each naming a package.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoints, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import signatures

GROUP = "cl_framework.plugins"
_OWN = ("strategies.learning", "strategies.unlearning", "scenarios", "cl_framework.backbones", "cl_framework.adapters")
KINDS = {
    "strategies": "Strategy",
    "unlearners": "Unlearner",
    "scenarios": "Scenario",
    "backbones": "Backbone",
    "adapters": "Adapter",
}
"""Kinds of classes, and the interface of each."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A class that a config may name.

    Attributes:
        name: Name of the class in configs.
        summary: The first line of its docstring.
        module: Dotted name of its module.
    """

    name: str
    summary: str
    module: str


def catalogue(kind: str) -> list[Entry]:
    """Return the public classes of one kind by name, found by reading source files without importing them.

    Raises:
        UserError: If the kind is unknown, a package is shadowed, or a file is not valid Python.
    """
    if kind not in KINDS:
        raise UserError(f"There is no list of {kind!r}. {did_you_mean(kind, KINDS)}")
    entries = [entry for name, file in modules() for entry in _declared(name, file, KINDS[kind])]
    return sorted(entries, key=lambda entry: entry.name.lower())


def load_class(kind: str, name: str) -> type:
    """Import and return the class called ``name``.

    Raises:
        UserError: If there is none; the closest names are given.
    """
    entries = {entry.name: entry for entry in catalogue(kind)}
    if name not in entries:
        raise UserError(f"There is no {KINDS[kind].lower()} {name!r}. {did_you_mean(name, entries)}")
    loaded: type = getattr(imported(entries[name].module), name)
    return loaded


def installed(kind: str) -> list[type[Any]]:
    """Import and return every class of a kind that a config may name, in the order of their names.

    Raises:
        UserError: If a package is shadowed or a module cannot be imported.
    """
    return [getattr(imported(entry.module), entry.name) for entry in catalogue(kind)]


def required(kind: type) -> list[str]:
    """Return the settings of a class that have no default, in the order of its signature."""
    given = inspect.signature(kind).parameters.values()
    return [p.name for p in given if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def packages() -> list[str]:
    """Return the dotted names of all plugin packages, ours first."""
    return list(_packages())


def discover() -> tuple[str, ...]:
    """Import every plugin module, so that subclasses are known; return their names.

    Raises:
        UserError: If a package is shadowed or a module cannot be imported.
    """
    names = [name for name, _ in modules()]
    for name in names:
        imported(name)
    return tuple(names)


def exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that exports every public class of its modules.

    No list is kept: a new file is exported as it is discovered, and a module is imported when its class is asked for.

    Args:
        package: Its dotted name; it is being imported.
    """
    folder = Path(str(sys.modules[package].__file__)).parent

    @cache
    def homes() -> dict[str, str]:
        files = sorted(p for p in folder.glob("*.py") if not p.name.startswith("_"))
        return {name: file.stem for file in reversed(files) for name in _public_classes(file)}

    def get(name: str) -> Any:
        if name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes()[name]}"), name)

    return get, lambda: sorted(homes())


def data_sources() -> Any:
    """Return the module that opens data by name; it imports nothing heavy before it opens some.

    Raises:
        UserError: If its package is shadowed.
    """
    _unshadowed("scenarios", Path(__file__).resolve().parents[2] / "scenarios", "cl-framework")
    return imported("scenarios.data.open")


def imported(name: str) -> Any:
    """Import a plugin module.

    Raises:
        UserError: If it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise UserError(f"The plugin {name} cannot be imported ({error}); fix it or remove its file.") from error


def modules(own: Sequence[str] = _OWN) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and source file of every public module of plugin packages.

    Args:
        own: Which packages of ours to look through, before those of others.

    Raises:
        UserError: If a package is shadowed.
    """
    for package, folder in _packages(own).items():
        for info in sorted(pkgutil.iter_modules([str(folder)]), key=lambda info: info.name):
            file = folder / info.name / "__init__.py" if info.ispkg else folder / f"{info.name}.py"
            if not info.name.startswith("_") and file.is_file():
                yield f"{package}.{info.name}", file


def _packages(own: Sequence[str] = _OWN) -> dict[str, Path]:
    """Return every plugin package and its folder, ``own`` ones first."""
    root = Path(__file__).resolve().parents[2]
    folders = {package: root.joinpath(*package.split(".")) for package in own}
    others = _announced(entry_points, tuple(map(_changed, sys.path)))
    packages = {p: _unshadowed(p, folder, "cl-framework") for p, folder in folders.items() if folder.is_dir()}
    return packages | {p: _unshadowed(p, None, owner) for p, owner in others.items() if p not in (*_OWN, *own)}


@lru_cache(maxsize=8)
def _announced(read: Callable[..., EntryPoints], places: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Return packages of entry points and their owners: read again only when ``places`` have changed.

    Reading them opens a file of every installed distribution.
    """
    return {p.value: p.dist.name if p.dist else "an installed package" for p in read(group=GROUP)}


def _changed(place: str) -> tuple[str, int]:
    """Return a directory of the import path and when something was last installed in it or removed."""
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:
        return place, 0


def _unshadowed(package: str, expected: Path | None, owner: str) -> Path:
    """Return the folder that importing ``package`` would use, if it is its owner's."""
    root, *rest = package.split(".")
    places = _places(root)
    for place in places:
        folder = place.joinpath(*rest)
        if folder.is_dir() and (expected is None or folder.resolve() == expected):
            return folder
    raise UserError(
        f"{owner} keeps plugins in {package!r}, but the name {root!r} leads to {places[0] if places else 'nothing'}: "
        "rename or uninstall what is there, or start from another folder."
    )


def _places(root: str) -> list[Path]:
    """Return where a top-level package is, without importing it."""
    if root in sys.modules:
        module = sys.modules[root]
        return [Path(p) for p in getattr(module, "__path__", [])] or [Path(getattr(module, "__file__", None) or root)]
    spec = find_spec(root)
    if spec is None:
        return []
    return [Path(p) for p in spec.submodule_search_locations or [spec.origin or root]]


def syntax(file: Path) -> ast.Module:
    """Return a plugin's syntax tree.

    Raises:
        UserError: If it is not valid Python.
    """
    try:
        return signatures.tree(file)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise UserError(f"{file} line {line} is not valid Python ({error}); fix or remove the file.") from error


def _declared(module: str, file: Path, interface: str) -> Iterator[Entry]:
    """Yield the finished public classes of a source file that name ``interface`` as a base."""
    tree = syntax(file)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {_last_name(base) for base in node.bases}
            if interface in bases and "ABC" not in bases:
                text = ast.get_docstring(node) or ast.get_docstring(tree) or ""
                yield Entry(node.name, text.partition("\n")[0].replace("``", "`"), module)


def _public_classes(file: Path) -> list[str]:
    return [n.name for n in signatures.tree(file).body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]


def _last_name(base: ast.expr) -> str:
    """Return ``C`` for the base ``C``, ``a.b.C`` or ``C[T]``."""
    while isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""

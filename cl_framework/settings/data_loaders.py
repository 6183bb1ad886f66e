"""Discovery of data loaders: a file that declares a ``LOADER`` and defines ``load``; listing imports nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from cl_framework.errors import UserError
from cl_framework.settings import discovery, signatures

_OWN = ("scenarios.data",)
_DECLARED = "LOADER"
_EXAMPLE = 'LOADER = Loader("mine", reads="file")'


@final
@dataclass(frozen=True, slots=True)
class Loader:
    """What a data loader says of itself; its file declares it at the top level, written out.

    Attributes:
        prefix: The name in configs, in front of the first colon: small letters, digits, underscores.
        reads: What its first argument is the path of; empty if it is none.
        give: What such a file or folder holds, for the message that one is missing.
        endings: Endings of files for which messages propose it, such as ``.csv``.
    """

    prefix: str
    reads: Literal["", "file", "folder"] = ""
    give: str = "a path that exists"
    endings: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class LoaderFile:
    """A data loader that was found.

    Attributes:
        loader: What its file declares.
        module: The file's dotted name.
        file: The file.
    """

    loader: Loader
    module: str
    file: Path

    @property
    def summary(self) -> str:
        """The first line of the file's docstring, without the name in front of it."""
        line = (ast.get_docstring(signatures.tree(self.file)) or "").partition("\n")[0].replace("``", "`")
        return re.sub(r"^`[^`]*`: ", "", line)

    @property
    def takes(self) -> dict[str, bool]:
        """Names of the arguments of ``load`` that a config may give, and whether each has a default."""
        functions = (n for n in signatures.tree(self.file).body if isinstance(n, ast.FunctionDef) and n.name == "load")
        load = next((signatures.Declared(self.module, "load", node) for node in functions), None)
        taken = signatures.parameters(load) if load else None
        if taken is None:
            problem = "defines no function `load` with named arguments"
            raise UserError(f"{self.file} declares the data loader {self.loader.prefix!r} and {problem}; add it.")
        return {name: not p.required for name, p in taken.items() if name != "faults"}

    @property
    def subject(self) -> str | None:
        """The argument without default, which stands behind the colon; None if there is none."""
        return next((name for name, default in self.takes.items() if not default), None)

    @property
    def options(self) -> list[str]:
        """The arguments with a default."""
        return [name for name, default in self.takes.items() if default]

    def function(self) -> Callable[..., Any]:
        """Import the file and return its ``load``.

        Raises:
            UserError: If it cannot be imported.
        """
        load: Callable[..., Any] = vars(discovery.imported(self.module))["load"]
        return load


def loader_files() -> list[LoaderFile]:
    """Return every data loader by prefix, of ours and of installed plugins.

    Raises:
        UserError: If a package is shadowed, or a file cannot be read or declares a loader in another way.
    """
    files = [each for module, file in discovery.modules(_OWN) for each in _declared(module, file)]
    return sorted(files, key=lambda each: each.loader.prefix)


def loader_of(prefix: str) -> LoaderFile | None:
    """Return the data loader with a prefix, if there is one.

    Raises:
        UserError: If there are several.
    """
    matches = [each for each in loader_files() if each.loader.prefix == prefix]
    if len(matches) > 1:
        places = " and ".join(str(each.file) for each in matches)
        raise UserError(f"{places} both load {prefix!r}; uninstall one of them, or rename its prefix.")
    return matches[0] if matches else None


def _declared(module: str, file: Path) -> Iterator[LoaderFile]:
    for node in discovery.syntax(file).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [_DECLARED]:
            yield LoaderFile(_read(node.value, f"{file} line {node.lineno}"), module, file)


def _read(value: ast.expr, place: str) -> Loader:
    """Return the declaration that an expression writes out.

    Raises:
        UserError: If it cannot be told without importing the file, or names no prefix.
    """
    try:
        if not isinstance(value, ast.Call):
            raise TypeError(ast.unparse(value))
        given = {k.arg or "": ast.literal_eval(k.value) for k in value.keywords}
        loader = Loader(*map(ast.literal_eval, value.args), **given)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} declares {_DECLARED} otherwise than written out, as in {_EXAMPLE}.") from error
    if not isinstance(loader.prefix, str) or not re.fullmatch("[a-z][a-z0-9_]*", loader.prefix):
        raise UserError(f"{place} declares the prefix {loader.prefix!r}; take small letters, digits and underscores.")
    if loader.reads not in ("", "file", "folder"):
        raise UserError(f"{place} declares reads={loader.reads!r}; write 'file' or 'folder', or leave it out.")
    return loader

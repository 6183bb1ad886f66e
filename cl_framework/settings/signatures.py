"""What a class or function takes, read from its source file: nothing is imported, so nothing heavy is either."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

Parameters: TypeAlias = dict[str, bool]
"""Names of parameters, and whether each has a default."""


def parameters(file: Path, name: str) -> Parameters | None:
    """Return what calling ``name`` of a source file takes; None if it takes any name, or if that cannot be told.

    Args:
        file: A Python file.
        name: A function or class at its top level; of a class it is ``__init__``, or the fields of a dataclass.
    """
    for node in tree(file).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _taken(node.args)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node)
    return None


def annotated(file: Path, name: str) -> dict[str, str]:
    """Return how the parameters of a class's ``__init__`` are annotated, as written; none if it has none of its own."""
    for node in tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            init = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
            every = [*init.args.args, *init.args.kwonlyargs] if init else []
            return {a.arg: ast.unparse(a.annotation) for a in every if a.annotation}
    return {}


def alternatives(annotation: str) -> dict[str, None]:
    """Return the types that an annotation names, in order.

    >>> [list(alternatives(a)) for a in ("Optional[Union[int, float]]", "int | None", "list[int]")]
    [['int', 'float', 'None'], ['int', 'None'], ['list[int]']]
    """
    if inside := re.fullmatch(r"(?:typing\.)?Optional\[(.*)\]", annotation):
        return {**alternatives(inside[1]), "None": None}
    if inside := re.fullmatch(r"(?:typing\.)?Union\[([^\[\]]*)\]", annotation):
        return dict.fromkeys(part.strip() for part in inside[1].split(","))
    return dict.fromkeys(part.strip() for part in annotation.split("|") if part.strip())


def source_file(module: str) -> Path | None:
    """Return the file of a module without importing it or the packages around it."""
    root, *rest = module.split(".")
    spec = find_spec(root)
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place).joinpath(*rest)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    return None


def tree(file: Path) -> ast.Module:
    """Return a source file's syntax tree, read once as long as the file stays as it is.

    Raises:
        SyntaxError: If it is not valid Python.
        ValueError: If it holds a null byte.
    """
    return _tree(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _tree(file: Path, _: int) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))


def _of_class(node: ast.ClassDef) -> Parameters | None:
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            parameters = _taken(method.args)
            return parameters and {k: v for k, v in parameters.items() if k != "self"}
    if any(ast.unparse(d).split("(")[0].endswith("dataclass") for d in node.decorator_list):
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
        return {ast.unparse(f.target): f.value is not None for f in fields}
    bases = {ast.unparse(b).split("[")[0].rpartition(".")[2] for b in node.bases}
    return {} if bases <= NO_SETTINGS else None


NO_SETTINGS = frozenset({"Strategy", "Unlearner", "Scenario", "Backbone", "Adapter"})
"""Interfaces whose own ``__init__`` takes nothing."""


def _taken(args: ast.arguments) -> Parameters | None:
    return None if args.kwarg or args.vararg else dict(_each(args))


def _each(args: ast.arguments) -> Iterator[tuple[str, bool]]:
    plain = [*args.posonlyargs, *args.args]
    required = len(plain) - len(args.defaults)
    yield from ((a.arg, i >= required) for i, a in enumerate(plain))
    yield from ((a.arg, d is not None) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True))

"""What a class takes, read from source files: nothing is imported, so nothing heavy is either.

A name is followed through imports, re-exports and stub files to where it is declared. Whatever cannot be told from
source alone is None, never a guess.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

DEEPEST = 12
"""Most re-exports that a name is followed through."""


@dataclass(frozen=True, slots=True)
class Declared:
    """Where a name is declared.

    Attributes:
        module: The module, dotted.
        name: The name there.
        node: The class, function or value.
    """

    module: str
    name: str
    node: ast.AST

    @property
    def path(self) -> str:
        """Return the dotted path."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a class.

    Attributes:
        annotation: Its type as written; None if it has none.
        module: The module whose names ``annotation`` uses.
        required: Whether it has no default.
        nullable: Whether its default is None, whatever its type says.
    """

    annotation: ast.expr | None
    module: str
    required: bool
    nullable: bool = False


def source_file(module: str) -> Path | None:
    """Return the file of a module without importing it or the packages around it."""
    return next(iter(_files(module)), None)


def tree(file: Path) -> ast.Module:
    """Return a source file's syntax tree, read once as long as the file stays as it is.

    Raises:
        SyntaxError: If it is not valid Python.
        ValueError: If it holds a null byte.
    """
    return _tree(file, file.stat().st_mtime_ns)


def find_declared(module: str, name: str) -> Declared | None:
    """Return where ``name`` of a module is declared; None if source files do not tell.

    >>> find_declared("torch.optim", "SGD").path, find_declared("torch.optim", "Sgd")
    ('torch.optim.sgd.SGD', None)
    """
    return _find(module, name, DEEPEST)


def names(module: str) -> list[str] | None:
    """Return every name that a module declares or imports; None if source files do not tell all of them."""
    known: list[str] = []
    for file in _files(module):
        for node in _statements(tree(file).body):
            if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
                return None
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                inner = names(_origin(node, module, file))
                if inner is None:
                    return None
                known += inner
            else:
                known += _bound(node)
                known += [c for m in _lazy(node, module, file) for c in names(m) or ()]
    return known or None


def parameters(declared: Declared) -> dict[str, Parameter] | None:
    """Return what a class or function takes; None if it takes any name, or if that cannot be told."""
    node = declared.node
    if isinstance(node, ast.FunctionDef):
        return _closed(node.args, declared.module)
    if not isinstance(node, ast.ClassDef):
        return None
    init = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    if init is not None:
        return _closed(init.args, declared.module)
    above = [b for b in bases(declared) if b.rpartition(".")[2] not in NO_SETTINGS]
    inherited = [parameters(base) if base else None for base in (_base(declared, b) for b in above)]
    if any(ast.unparse(d).split("(")[0].endswith("dataclass") for d in node.decorator_list):
        earlier = {k: v for taken in reversed(inherited) for k, v in (taken or {}).items()}
        return earlier | dict(_fields(node, declared.module))
    return inherited[0] if inherited else {}


def named(declared: Declared) -> list[str]:
    """Return the parameters that a class names itself, also where it takes others."""
    node = declared.node
    inits = [m for m in getattr(node, "body", []) if isinstance(m, ast.FunctionDef) and m.name == "__init__"]
    return [name for m in inits for name, _ in _arguments(m.args, declared.module)]


def bases(declared: Declared) -> list[str]:
    """Return the bases of a class as written, without what stands in brackets; none of anything else."""
    node = declared.node
    return [ast.unparse(b).split("[")[0] for b in node.bases] if isinstance(node, ast.ClassDef) else []


def ancestors(declared: Declared) -> set[str] | None:
    """Return the dotted paths of a class and all that it inherits; None if one of them cannot be told."""
    if not isinstance(declared.node, ast.ClassDef):
        return None
    paths = {declared.path}
    for base in bases(declared):
        if base in _ROOTS:
            continue
        parent = _base(declared, base)
        above = ancestors(parent) if parent else None
        if above is None:
            return None
        paths |= above
    return paths


NO_SETTINGS = frozenset({"Strategy", "Unlearner", "Scenario", "Backbone", "Adapter", "ABC", "Protocol", "object"})
"""Bases whose own ``__init__`` takes nothing."""


_ROOTS = frozenset({"object", "ABC", "Generic", "Protocol", "nn.Module"})
"""Bases above which nothing is looked for."""


def _base(declared: Declared, base: str) -> Declared | None:
    return find_declared(declared.module, base) if base.isidentifier() else None


@lru_cache(maxsize=4096)
def _find(module: str, name: str, depth: int) -> Declared | None:
    stars = []
    for file in _files(module) if depth else ():
        for node in _statements(tree(file).body):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return Declared(module, name, node)
            if isinstance(node, ast.Assign | ast.AnnAssign) and name in _bound(node):
                return Declared(module, name, node.value or node)
            if isinstance(node, ast.ImportFrom):
                origin = _origin(node, module, file)
                other = next((a.name for a in node.names if (a.asname or a.name) == name), None)
                if other is not None:
                    return _find(origin, other, depth - 1)
                stars += [origin] if node.names[0].name == "*" else []
            stars += _lazy(node, module, file)
    return next((match for star in stars if (match := _find(star, name, depth - 1))), None)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements of a module, those under ``if`` and ``try`` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])


def _lazy(node: ast.stmt, module: str, file: Path) -> list[str]:
    """Return the modules of a package whose classes it exports when they are asked for, as plugin packages do."""
    if file.stem != "__init__" or "__getattr__" not in _bound(node) or file.with_suffix(".pyi").is_file():
        return []
    return [f"{module}.{p.stem}" for p in sorted(file.parent.glob("*.py")) if not p.name.startswith("_")]


def _bound(node: ast.stmt) -> list[str]:
    """Return the names that a statement binds."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [a.asname or a.name for a in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [t.id for each in targets for t in ast.walk(each) if isinstance(t, ast.Name)]


def _origin(node: ast.ImportFrom, module: str, file: Path) -> str:
    """Return the module that a statement imports from, dotted."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.stem == "__init__" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _fields(node: ast.ClassDef, module: str) -> Iterator[tuple[str, Parameter]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            default = ast.unparse(item.value) if item.value else ""
            if "ClassVar" not in ast.unparse(item.annotation) and "init=False" not in default:
                null = default == "None" or "default=None" in default
                yield item.target.id, Parameter(item.annotation, module, item.value is None, null)


def _closed(args: ast.arguments, module: str) -> dict[str, Parameter] | None:
    """Return parameters by name; None where any name is taken."""
    return None if args.kwarg or args.vararg else dict(_arguments(args, module))


def _arguments(args: ast.arguments, module: str) -> Iterator[tuple[str, Parameter]]:
    plain = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(plain) - len(args.defaults)), *args.defaults, *args.kw_defaults]
    for arg, default in zip([*plain, *args.kwonlyargs], defaults, strict=True):
        if arg.arg != "self":
            null = isinstance(default, ast.Constant) and default.value is None
            yield arg.arg, Parameter(arg.annotation, module, default is None, null)


@lru_cache(maxsize=4096)
def _files(module: str) -> tuple[Path, ...]:
    """Return the source file of a module, and its stub after it."""
    root, *rest = module.split(".")
    spec = find_spec(root) if root else None
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place).joinpath(*rest)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return tuple(f for f in (file, file.with_suffix(".pyi")) if f.is_file())
    origin = spec.origin if spec and not rest else None
    return (Path(origin),) if origin and origin.endswith(".py") else ()


@lru_cache(maxsize=512)
def _tree(file: Path, _: int) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))

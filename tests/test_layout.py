"""Rooms of the house: what each package may import, how large a folder may be, and what a package says of itself."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "terminal": "",
    "errors": "terminal",
    "threads": "errors",
    "functional": "errors",
    "metrics": "",
    "settings": "errors threads",
    "storage": "errors",
    "streams": "terminal errors settings storage",
    "backbones": "errors functional settings storage",
    "memory": "errors functional streams",
    "feature_cache": "errors functional storage streams",
    "evaluation": "terminal errors metrics storage streams",
    "scenarios": "errors functional settings storage streams",
    "adapters": "errors functional settings streams backbones memory",
    "models": "errors streams backbones memory feature_cache adapters",
    "methods": "terminal errors functional settings streams backbones memory adapters models",
    "engine": "errors settings storage streams backbones memory evaluation adapters models methods",
    "strategies": "errors functional settings streams memory adapters models methods",
    "configuration": "errors threads settings streams evaluation engine",
    "auditing": "errors metrics streams memory feature_cache models engine",
    "runs": "terminal errors metrics settings storage streams memory feature_cache evaluation methods "
    "engine configuration",
    "operations": "terminal errors settings storage streams feature_cache evaluation methods engine configuration "
    "auditing runs",
    "cli": "terminal errors settings storage streams evaluation methods engine configuration auditing runs operations",
}
"""Packages, lowest first, and those that each imports: all of them stand above it here."""

FOLDERS = [p.parent for p in (ROOT / "cl_framework").rglob("__init__.py")]
FOLDERS += [ROOT / "scenarios", ROOT / "scenarios" / "data", ROOT / "scenarios" / "pictures"]
PACKAGES = [name for name in MAY_IMPORT if (ROOT / "cl_framework" / name).is_dir()]


PROTOCOL = {
    "LOADER": "what a data loader declares of itself; its file is found by it",
    "load": "what a data loader returns its source by",
    "run": "the verb of clf, and what Python calls by that name",
}
"""Names that several modules define because one caller looks for them in each."""


def room(path):
    """The package that a file lies in, or its own name where it lies beside packages."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return rest[0] if top == "cl_framework" else top


def imported(path):
    """Every package of ours that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            top, _, rest = node.module.partition(".")
            if top == "cl_framework":
                found |= {rest.partition(".")[0]} if rest else {alias.name for alias in node.names}
            elif top in ("strategies", "scenarios"):
                found.add(top)
    return found


FILES = [p for top in ("cl_framework", "strategies", "scenarios") for p in sorted((ROOT / top).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_what_its_room_may(path):
    if room(path) != "__init__":  # lets idle threads sleep before anything else
        assert imported(path) - {room(path)} <= set(MAY_IMPORT[room(path)].split())


def test_nothing_points_upward():
    order = list(MAY_IMPORT)
    for name, below in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(name) for other in below.split()), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_has_at_most_sixteen_modules(folder):
    assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= 16


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_what_lives_in_it_and_what_others_use(name):
    package = import_module(f"cl_framework.{name}")
    assert (package.__doc__ or "").strip().endswith(".")
    assert all(hasattr(package, public) for public in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in ("strategies", "scenarios")], ids=lambda p: p.stem)
def test_methods_and_scenarios_import_packages_so_that_files_may_move(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cl_framework."):
            assert node.module.count(".") == 1, f"{node.module}: import from its package"


def sentences():
    """Lines of the table of packages in CONTRIBUTING: every package with the first line of its docstring."""
    lines = ["| package | what it holds |", "|---|---|"]
    for name in MAY_IMPORT:
        top = ROOT / name if name in ("strategies", "scenarios") else ROOT / "cl_framework" / name
        file = top / "__init__.py" if top.is_dir() else top.with_suffix(".py")
        told = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
        lines.append(f"| `{file.relative_to(ROOT) if file.stem == name else top.relative_to(ROOT)}` | {told} |")
    return "\n".join(lines)


def test_contributing_lists_the_packages_in_their_own_words():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("<!-- packages -->")[2].partition("<!-- /packages -->")[0]
    assert table.strip() == sentences(), "a package's sentence changed: put it into the table of CONTRIBUTING.md"


def defined(path):
    """Public names that a module defines itself."""
    for node in ast.parse(path.read_text()).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names = [t.id for t in targets if isinstance(t, ast.Name)]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        yield from (name for name in names if not name.startswith("_"))


def test_a_public_name_stands_for_one_thing():
    places = {}
    for path in FILES:
        if path.name != "__init__.py":
            for name in set(defined(path)):
                places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1 and name not in PROTOCOL}
    assert not twice

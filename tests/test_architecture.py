"""Rules of the house, checked on the source itself."""

import ast
import functools
import inspect
import io
import itertools
import re
import tokenize
from pathlib import Path

import pytest

from cl_framework.methods.base import Strategy
from cl_framework.settings import discovery

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "cl_framework").rglob("*.py"))
STRATEGIES = sorted((ROOT / "strategies").rglob("*.py"))
SCENARIOS = sorted((ROOT / "scenarios").rglob("*.py"))
EVERYTHING = [*CORE, *STRATEGIES, *SCENARIOS]
LEARNERS = [p for p in STRATEGIES if p.name != "__init__.py"]
BASELINES = {"Finetune", "Joint"}  # bounds rather than published methods
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def imports(path):
    """Every module that a file imports, dotted, wherever in the file."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def roots(path):
    return {name.split(".")[0] for name in imports(path)}


def code_lines(path):
    """Lines that hold code: explaining must cost nothing, so docstrings, comments and imports do not count."""
    tree, lines = ast.parse(path.read_text()), set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}:
            lines |= set(range(token.start[0], token.end[0] + 1)) if token.string else set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):  # naming where a thing comes from costs nothing either
            lines -= set(range(node.lineno, node.end_lineno + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def public(tree):
    """Every public function, class and method of a module, nested ones in functions aside."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def test_the_core_knows_no_plugin_and_plugins_know_only_the_core():
    for path in EVERYTHING:
        forbidden = {"strategies", "scenarios"}
        if path not in CORE:
            own = path.relative_to(ROOT).parts[0]
            forbidden |= LIGHTNING
            forbidden -= {own} if own == "scenarios" else set()  # scenarios share their data sources
        assert not roots(path) & forbidden, path


def test_only_the_shell_around_the_core_knows_lightning():
    shell = {"learner.py", "trainers.py", "experiment.py", "parser.py", "sections.py", "rehearsal.py"}
    assert {p.name for p in CORE if roots(p) & LIGHTNING} <= shell


def test_no_name_says_nothing():
    nothing = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "tools"}
    assert [path for path in EVERYTHING if path.stem in nothing] == []


def test_files_of_the_core_are_short():
    assert [path for path in CORE if code_lines(path) > 220] == []


def test_a_strategy_fits_on_a_page():
    assert [path for path in LEARNERS if code_lines(path) > 80] == [], "move what others could use to cl_framework"


def test_everything_public_says_what_it_is():
    for path in EVERYTHING:
        assert ast.get_docstring(parsed(path)) or not path.read_text().strip(), path
        assert [node.name for node in public(parsed(path)) if not ast.get_docstring(node)] == [], path


def test_nothing_is_pickled():
    for path in EVERYTHING:
        assert not roots(path) & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, path
        calls = {ast.unparse(n.func) for n in ast.walk(parsed(path)) if isinstance(n, ast.Call)}
        assert not calls & {"torch.save", "torch.load", "eval", "exec"}, path


def test_classes_are_abstract_or_final():
    """A class that other files may see is an interface, a value, or marked as finished."""
    for node in itertools.chain.from_iterable(parsed(path).body for path in EVERYTHING):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {ast.unparse(b).split(".")[-1] for b in node.bases}
            marks = {ast.unparse(d).split("(")[0] for d in node.decorator_list}
            values = {"ABC", "Protocol", "NamedTuple", "Struct", "TypedDict", "Exception"}
            fine = bases & values or marks & {"final", "dataclass"}
            assert fine or not bases, f"{node.name} can be subclassed by accident; mark it @final"


def test_protocols_that_isinstance_asks_have_methods_only():
    """From Python 3.12 it looks members up without ``__getattr__`` and misses a module's parameters and buffers."""
    trees = [ast.parse(path.read_text()) for path in EVERYTHING]
    asked = {
        node.name: node
        for node in (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
        if any(ast.unparse(d).endswith("runtime_checkable") for d in node.decorator_list)
    }
    assert asked
    for name, node in asked.items():
        assert {ast.unparse(b) for b in node.bases} <= {"Protocol", *asked}, f"{name}: say what it inherits here"
        members = [m for m in node.body if not isinstance(m, ast.Expr)]
        assert all(isinstance(m, ast.FunctionDef) and not m.decorator_list for m in members), f"{name}: make it an ABC"


def test_strategies_never_inherit_strategies():
    names = {n.name for p in LEARNERS for n in ast.parse(p.read_text()).body if isinstance(n, ast.ClassDef)}
    for path in LEARNERS:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                assert not {ast.unparse(b) for b in node.bases} & names, f"{node.name}: compose instead"


def test_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not {"strategies", "scenarios"} & {p.name for p in (ROOT / "tests").iterdir()}


@pytest.fixture(params=[entry.name for entry in discovery.catalogue("strategies")])
def kind(request):
    return discovery.load_class("strategies", request.param)


def test_it_is_final_and_abstract_in_nothing(kind):
    assert not inspect.isabstract(kind)
    assert kind.__subclasses__() == []
    assert kind.__bases__ == (Strategy,), "compose parts of the core; never inherit a method"
    assert getattr(kind, "__final__", False), "mark it @final"


def test_its_docstring_names_its_paper(kind):
    prose = [ast.get_docstring(ast.parse(Path(inspect.getfile(kind)).read_text())) or "", inspect.getdoc(kind) or ""]
    assert all(prose)
    assert kind.__name__ in BASELINES or any(re.search(r"et al\..*\b(19|20)\d\d\b", text, re.DOTALL) for text in prose)

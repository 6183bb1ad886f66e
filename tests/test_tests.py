"""Rules for tests, checked on their source: each asserts something itself, and none touches a private name."""

import ast
import functools
from pathlib import Path

TESTS = sorted(Path(__file__).parent.glob("*.py"))
OURS = {"cl_framework", "strategies", "scenarios", "scripts"}
THEIRS = {"_dynamo", "_exit", "_forward_hooks", "_forward_pre_hooks", "_pos_embed", "_repr_html_"}
"""Private names of Python, torch, timm and notebooks that have no public counterpart."""


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def private(name):
    return name.startswith("_") and not name.startswith("__")


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def asserts(function, checks=()):
    """Tell whether a function asserts, expects an error, or calls one of ``checks`` that does."""
    called = {ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)}
    plain = any(isinstance(n, ast.Assert) for n in ast.walk(function))
    return plain or bool(called & {"pytest.raises", "pytest.warns", "torch.testing.assert_close", *checks})


def silent(tree):
    checks = {f.name for f in functions(tree) if not f.name.startswith("test_") and asserts(f)}
    return [f.name for f in functions(tree) if f.name.startswith("test_") and not asserts(f, checks)]


def touched(tree):
    """Return private names that a test module reads, imports from us, or names in a patch."""
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own | THEIRS:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OURS:
            yield from (f"{node.module}.{a.name}" for a in node.names if private(a.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"setattr", "getattr"}:
            named = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield from (name for name in named if any(private(part) for part in name.split(".")))


def test_every_test_asserts_something_itself():
    assert {path.name: names for path in TESTS if (names := silent(parsed(path)))} == {}


def test_tests_touch_no_private_name():
    assert {path.name: names for path in TESTS if (names := sorted(set(touched(parsed(path)))))} == {}


def test_the_rules_see_what_breaks_them():
    tree = ast.parse("def test_a(): learner._x\ndef test_b(patch): patch.setattr(loop, '_met', 1); assert True")
    assert silent(tree) == ["test_a"]
    assert sorted(touched(tree)) == ["_met", "learner._x"]

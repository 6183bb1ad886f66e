"""What `import cl_framework` offers, and that it loads nothing before it is used; parts remember their arguments."""

import inspect
import subprocess
import sys
from copy import deepcopy

import pytest

import cl_framework as clf
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.settings import arguments, discovery, trust
from scenarios import ClassIncremental, Mixed, Request
from scenarios.pictures import Plain
from strategies.learning import EASE
from strategies.unlearning import DropAdapter

HEAVY = "torch", "timm", "pytorch_lightning", "jsonargparse", "numpy", "rich.console"


def test_importing_the_packages_loads_nothing_heavy():
    code = f"""
import sys
import cl_framework, scenarios, strategies.learning, strategies.unlearning
cl_framework.UserError, dir(cl_framework), dir(strategies.learning)
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", clf.__all__)
def test_every_exported_name_is_there(name):
    assert getattr(clf, name) is not None


@pytest.mark.parametrize(("kind", "package"), [("strategies", "strategies.learning"), ("scenarios", "scenarios")])
def test_packages_of_plugins_export_what_is_discovered(kind, package):
    names = {entry.name for entry in discovery.catalogue(kind) if entry.module.startswith(f"{package}.")}
    assert names
    assert names <= set(dir(sys.modules[package]))


def test_a_name_that_no_module_defines_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sys.modules["strategies.learning"].Nothing


def test_a_config_may_name_backbones_and_adapters_by_their_exported_path():
    exported = {n for n in clf.__all__ if isinstance(k := getattr(clf, n), type) and not inspect.isabstract(k)}
    parts = {n for n in exported if issubclass(getattr(clf, n), clf.Backbone | clf.Adapter)}
    assert parts == set(trust.EXPORTED)
    for name in parts:
        trust.require(f"cl_framework.{name}")


def test_parts_remember_the_arguments_they_were_made_with():
    stream = ClassIncremental("digits", increment=5, transform=Plain(16))
    mixed = Mixed(stream, requests=[Request(after=1, classes=[7])])
    assert arguments(mixed) == {"stream": stream, "requests": [Request(after=1, classes=[7])]}
    assert arguments(stream)["increment"] == 5
    assert arguments(stream)["transform"].name == Plain(16).name
    assert arguments(Bottleneck(16)) == {"width": 16}
    assert arguments(DropAdapter()) == {}


def test_a_copy_remembers_too():
    assert arguments(deepcopy(EASE(0.5))) == {"alpha": 0.5}


def test_signatures_are_those_of_the_constructor():
    assert list(inspect.signature(Bottleneck).parameters) == list(inspect.signature(Bottleneck.__init__).parameters)[1:]

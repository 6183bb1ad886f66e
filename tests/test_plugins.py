"""A method is a file: listed without being imported, loaded by name, missed loudly when something hides it."""

import re
import sys

import pytest

from cl_framework.errors import UserError
from cl_framework.settings import discovery

SOURCE = '''
"""A module."""
raise RuntimeError("listing must not import")
class Quiet(Strategy): ...
class Loud(strategy.Strategy[int]):
    """Learns loudly with ``volume``.

    More.
    """
class Half(Strategy, ABC): ...
class _Private(Strategy): ...
class Other(Unlearner): ...
class Unrelated: ...
'''


@pytest.fixture
def package(install_package):
    """An installed package of somebody else that promises plugins in ``made_up.methods``."""
    return install_package("made_up.methods")


def test_public_finished_classes_are_listed_by_their_base_without_import(package):
    (package / "method.py").write_text(SOURCE)
    (package / "_draft.py").write_text("class Draft(Strategy): ...")
    mine = [e for e in discovery.catalogue("strategies") if e.module == "made_up.methods.method"]
    assert [(e.name, e.summary) for e in mine] == [("Loud", "Learns loudly with `volume`."), ("Quiet", "A module.")]
    assert "Other" in {e.name for e in discovery.catalogue("unlearners")}
    listed = {e.name for kind in discovery.KINDS for e in discovery.catalogue(kind)}
    assert not {"Half", "_Private", "Unrelated", "Draft"} & listed
    assert "made_up.methods.method" not in sys.modules


def test_a_new_file_is_found_and_loaded_by_name(package):
    assert "Fresh" not in {e.name for e in discovery.catalogue("strategies")}
    (package / "fresh.py").write_text("class Strategy: ...\nclass Fresh(Strategy): ...\n")
    assert discovery.load_class("strategies", "Fresh").__module__ == "made_up.methods.fresh"
    with pytest.raises(UserError, match="Did you mean 'Fresh'"):
        discovery.load_class("strategies", "Frish")


def test_our_own_methods_are_found_from_a_source_tree(monkeypatch):
    monkeypatch.setattr(discovery, "entry_points", lambda group: [])
    assert {"EASE", "SimpleCIL"} <= {e.name for e in discovery.catalogue("strategies")}
    assert "LoRA" in {e.name for e in discovery.catalogue("adapters")}
    assert all(e.summary for kind in discovery.KINDS for e in discovery.catalogue(kind))


def test_an_unknown_kind_gets_a_hint():
    with pytest.raises(UserError, match="Did you mean 'unlearners'"):
        discovery.catalogue("unlearner")


def test_a_file_that_is_not_python_is_named_with_the_line(package):
    (package / "typo.py").write_text("x = 1\nclass Typo(Strategy:\n")
    with pytest.raises(UserError, match=r"typo\.py line 2"):
        discovery.catalogue("strategies")


def test_a_plugin_that_cannot_be_imported_is_named(package):
    (package / "needy.py").write_text("import no_such_library\nclass Needy(Strategy): ...\n")
    with pytest.raises(UserError, match=r"made_up\.methods\.needy.*no_such_library"):
        discovery.load_class("strategies", "Needy")


def test_a_promised_package_that_something_shadows_says_what_shadows_it(package, tmp_path, monkeypatch):
    shadow = tmp_path / "first" / "made_up.py"
    shadow.parent.mkdir()
    shadow.write_text("")
    monkeypatch.syspath_prepend(shadow.parent)
    with pytest.raises(UserError, match=r"made_up\.methods.*first/made_up\.py"):
        discovery.catalogue("strategies")


def test_another_package_in_the_place_of_ours_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "strategies" / "learning").mkdir(parents=True)
    (tmp_path / "strategies" / "__init__.py").write_text("")
    for name in [n for n in sys.modules if n.partition(".")[0] == "strategies"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path / "strategies")):
        discovery.discover()


@pytest.mark.parametrize("kind", discovery.KINDS)
def test_a_list_says_in_words_what_a_thing_does_and_when_to_choose_it(kind):
    """The first line of a docstring is all that `clf list` shows; formulas and references come below it."""
    for entry in discovery.catalogue(kind):
        line = entry.summary
        assert 40 <= len(line) <= 100, entry
        assert line.endswith("."), entry
        assert not re.search(r"[`=^|{}\[\]]|\(\w|Sec\.|Eq\.", line), entry
        assert line.split()[0] != entry.name, entry
        told = "choose it" in line or (kind == "unlearners" and line.endswith(("Exact.", "Approximate.")))
        assert told, entry

"""A config from a stranger runs no code: what it names is judged before anything is imported."""

import sys

import pytest

from cl_framework.cli.main import main
from cl_framework.errors import UserError
from cl_framework.settings import trust

PLAN = ["plan", "--config", "configs/quickstart.yaml"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module whose import shows."""
    (tmp_path / "of_a_stranger.py").write_text("class Any: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("of_a_stranger", None)


@pytest.mark.parametrize(
    "where", ["model.strategy", "model.optimizer", "data.scenario", "trainer.logger", "trainer.plugins"]
)
def test_what_is_of_no_known_kind_is_refused_before_it_is_imported(where, module, capsys):
    assert main([*PLAN, f"--{where}", "of_a_stranger.Any"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "The config names of_a_stranger.Any, which may run any code" in told
    assert "add --trust of_a_stranger.Any" in told
    assert "of_a_stranger" not in sys.modules


def test_what_is_trusted_is_imported_and_trust_ends_with_the_verb(module, capsys):
    asked = [*PLAN, "--model.strategy", "of_a_stranger.Any"]
    assert main([*asked, "--trust", "of_a_stranger"]) == 2
    assert "may run any code" not in capsys.readouterr().err
    assert "of_a_stranger" in sys.modules
    assert main(asked) == 2
    assert "may run any code" in capsys.readouterr().err


def test_a_name_that_is_none_is_refused():
    for name in ("*", "a b/c", "jsonargparse.typing"):
        with pytest.raises(UserError, match="takes the name of a package"), trust.given(["--trust", name]):
            pass
    with trust.given(["x", "--trust=mine.Class", "--y"]) as rest:
        assert (rest, trust.trusted()) == (["x", "--y"], ["mine.Class"])
    assert trust.trusted() == []


def test_what_a_module_of_a_known_kind_only_imports_is_not_called(module, capsys):
    """Anything can be reached through the imports of another module, `import_module` itself first of all."""
    given = "benchmark: 'scenarios.from_avalanche:import_module', options: {name: of_a_stranger}"
    asked = [*PLAN, "--data.scenario", f"{{class_path: FromAvalanche, init_args: {{{given}}}}}"]
    assert main(asked) == 2
    assert "The config names importlib.import_module, which may run any code" in capsys.readouterr().err
    assert "of_a_stranger" not in sys.modules

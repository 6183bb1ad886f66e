"""A run made before modules moved into packages goes on working: its config names classes where they were."""

import shutil
from pathlib import Path

import pytest

from cl_framework.cli.main import main
from cl_framework.configuration import shorthand

KEPT = Path(__file__).parent / "kept_run"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(KEPT, tmp_path / "run")


def test_it_names_a_class_that_has_moved_since():
    assert "class_path: scenarios.transform.Pilot" in (KEPT / "config.yaml").read_text()


def test_it_verifies_resumes_learns_forgets_and_answers(run, tmp_path, capsys):
    assert main(["verify", str(run)]) == 0
    assert main(["resume", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert "agrees with the recorded results" in capsys.readouterr().out
    assert main(["forget", str(run), "--classes", "id:1"]) == 0
    more = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", "digits:test=0.9"]
    assert main(["learn", str(run), *more]) == 0
    assert main(["verify", str(run)]) == 0
    assert "8 events, 1 receipt" in capsys.readouterr().out.replace("\n", " ")


def test_old_places_of_classes_are_read_wherever_a_config_names_them():
    read = shorthand.read(
        "data: {scenario: {class_path: Mixed, init_args: {transform: {class_path: scenarios.transform.Plain}}}}"
    )
    assert read["data"]["scenario"]["init_args"]["transform"]["class_path"] == "scenarios.pictures.transforms.Plain"
    assert shorthand.read("published: {class_path: cl_framework.published.Published}")["published"]["class_path"] == (
        "cl_framework.evaluation.published.Published"
    )

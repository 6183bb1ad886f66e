"""Published settings: every file tells its figure, what is missing is named, and the verdict can be outside."""

import json

import pytest
import yaml

from cl_framework.cli import main, reproduce
from cl_framework.cli import run as cli_run
from cl_framework.errors import UserError
from cl_framework.evaluation.published import Published, verdicts

SIMPLE = "simplecil_cifar100_inc5"


def test_every_published_setting_tells_its_figures_and_their_source():
    files = sorted(reproduce.experiments().glob("*.yaml"))
    assert len(files) > 10
    for path in files:
        it = reproduce.published_for(path)
        assert len(it.source) > 20
        assert 20 < it.final_accuracy < 100
        assert 0 < it.tolerance <= 3.5
        assert it.average_incremental_accuracy is None or 20 < it.average_incremental_accuracy < 100
        assert path.stem in path.read_text()  # the comment that says how to compare


def test_without_a_name_methods_are_listed_and_with_all_every_setting(capsys):
    assert main.main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 15
    assert ["SimpleCIL", SIMPLE, "7", "0.15"] in [line.split() for line in out.splitlines()]
    assert main.main(["reproduce", "--all"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(list(reproduce.experiments().glob("*.yaml")))
    (row,) = [row for row in rows if row.startswith(SIMPLE + " ")]
    assert row.split()[-3:] == ["87.57", "81.28", "0.15"]
    assert head.endswith("±")
    assert len({len(row) for row in rows} - {len(head)}) <= 1  # in columns, however long the names


def test_a_trial_is_no_result_and_is_not_judged(own, tmp_path, capsys):
    own(final_accuracy=50.0)
    assert main.main(["reproduce", "own", "--run_dir", str(tmp_path / "run"), "--trainer.fast_dev_run", "true"]) == 2
    out = capsys.readouterr().out
    assert "This is no result and is not compared: trainer.fast_dev_run" in out
    assert "inside" not in out
    assert "OUTSIDE" not in out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["trial"]


def test_an_unknown_name_gets_what_is_close(capsys):
    assert main.main(["reproduce", "simplecil_cifar100_inc50"]) == 2
    assert SIMPLE in capsys.readouterr().err


def test_what_is_missing_is_named_with_its_place_and_nothing_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main.main(["reproduce", SIMPLE, "--run_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "vit_base_patch16_224.augreg_in21k" in said
    assert str(tmp_path / "nowhere") in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Digits on the embedded backbone stand in for CIFAR-100 on a ViT-B: tested is the way from run to verdict."""
    stand_in = tmp_path / "configs"
    stand_in.mkdir()
    monkeypatch.setattr(reproduce, "experiments", lambda: stand_in)
    config = {
        "published": {"source": "a table of our own making", "final_accuracy": 10.0, "tolerance": 1.0},
        "model": {"backbone": "GlyphViT", "strategy": "SimpleCIL"},
        "data": {"scenario": {"class_path": "ClassIncremental", "init_args": {"dataset": "digits", "increment": 5}}},
    }

    def write(**published):
        config["published"] |= published
        (stand_in / "own.yaml").write_text(yaml.safe_dump(config))

    write()
    return write


def test_the_run_is_judged_and_a_finished_one_is_not_repeated(own, tmp_path, monkeypatch, capsys):
    started = []
    run = cli_run.run
    monkeypatch.setattr(cli_run, "run", lambda argv: started.append(argv) or run(argv))
    line = ["reproduce", "own", "--run_dir", str(tmp_path / "run")]
    assert main.main(line) == 1
    assert "OUTSIDE" in capsys.readouterr().out
    final = 100 * json.loads((tmp_path / "run" / "results.json").read_text())["final_accuracy"]
    assert final > 90
    own(final_accuracy=round(final, 1))
    assert main.main(line) == 0
    assert "inside" in capsys.readouterr().out
    assert len(started) == 1
    changed = [*line, "--data.scenario.dataset", "imagefolder:nowhere", "--run_dir", str(tmp_path / "other")]
    assert main.main(changed) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "stopped"])
def test_a_run_is_neither_judged_nor_resumed_under_other_settings_than_its_own(own, tmp_path, capsys, stopped):
    """They would have no effect on what is done already: what they gave would pass for what they were asked for."""
    path = tmp_path / "run"
    few = ["--data.scenario.dataset", "glyphs:classes=10,train=2,test=1"]
    line = ["reproduce", "own", "--run_dir", str(path), *few, "--data.batch_size", "24"]
    assert main.main(line) == 1
    if stopped:
        (path / "results.json").unlink()
    for other in (["--data.batch_size", "16"], ["--model.strategy", "APER"]):
        capsys.readouterr()
        assert main.main([*line, *other]) == 2
        assert "OUTSIDE" not in (said := capsys.readouterr()).out
        assert str(path) in said.err
        assert "--run_dir" in said.err
        assert {"16": "data.batch_size 24 instead of 16", "APER": "model.strategy.class_path"}[other[1]] in said.err
        assert (path / "results.json").exists() is not stopped
    assert main.main(line) == 1
    assert "OUTSIDE" in capsys.readouterr().out


def test_a_figure_that_was_not_reported_is_not_judged():
    assert verdicts(Published("log"), {"final_accuracy": 0.5}) == []
    two = Published("log", average_incremental_accuracy=50.0, final_accuracy=40.0, tolerance=0.0)
    assert [v.inside for v in verdicts(two, {"average_incremental_accuracy": 0.5, "final_accuracy": 0.41})] == [
        True,
        False,
    ]


def test_find_takes_the_name_with_and_without_its_suffix():
    assert reproduce.find(SIMPLE) == reproduce.find(f"{SIMPLE}.yaml")
    with pytest.raises(UserError):
        reproduce.find("")

"""The comparison resumes, never reports what it tried, and fills the README; the bench adds up."""

import json
import time

import pytest
import yaml

from cl_framework.cli import run as cli_run
from cl_framework.errors import UserError
from cl_framework.runs.recorder import RunRecorder
from scripts import bench, bench_forgetting, compare, forgetting, phases, tables

TINY = {
    "title": "tiny",
    "seeds": [1, 2],
    "validation": 0.2,
    "shared": {
        "model": {"backbone": "GlyphViT"},
        "data": {"scenario": {"class_path": "ClassIncremental", "init_args": {
            "dataset": "glyphs:classes=2,train=5,test=2", "increment": 1}}},
        "trainer": {"fast_dev_run": True},
    },
    "methods": {"SimpleCIL": {"model": {"strategy": "SimpleCIL"}}},
}  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the comparison on the tiny matrix, and count which runs it starts."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    started = []
    run = cli_run.run
    monkeypatch.setattr(cli_run, "run", lambda argv: started.append(argv) or run(argv))

    def called(*more):
        started.clear()
        places = ["--runs", str(tmp_path / "runs"), "--tables", str(tmp_path / "tables")]
        return compare.main([str(tmp_path / "tiny.yaml"), *places, *more]), len(started)

    return called


def test_a_finished_cell_is_not_run_again_and_a_missing_one_is(call, tmp_path):
    assert call() == (0, 2)
    first = (tmp_path / "tables" / "tiny.md").read_text()
    assert call() == (0, 0)
    assert (tmp_path / "tables" / "tiny.md").read_text() == first
    cell = next((tmp_path / "runs" / "tiny").glob("simplecil-1-*"))
    cell.rename(tmp_path / "elsewhere")
    assert call() == (0, 1)
    assert "| SimpleCIL |" in first
    assert "over 2 seeds" in first
    assert "`python scripts/compare.py configs/compare/tiny.yaml`" in first
    facts = json.loads((tmp_path / "tables" / "tiny.json").read_text())
    (row,), cells = facts["methods"], facts["cells"]
    assert [c["seed"] for c in cells] == [1, 2]
    assert row["mean"]["final_accuracy"] == pytest.approx(sum(c["final_accuracy"] for c in cells) / 2)
    assert (row["mean"]["passes_per_test_image"], row["mean"]["trainable_parameters"]) == (1, 0)
    assert row["mean"]["stored_bytes"] > 0
    assert str(tmp_path) not in json.dumps(facts) + first


def test_rows_of_a_table_are_made_again_in_their_places(call, tmp_path, capsys):
    assert call("--only", "SimpleCIL", "--update") == (2, 2)
    assert "not there to be updated" in capsys.readouterr().err
    table = tmp_path / "tables" / "tiny.json"
    assert call() == (0, 0)
    facts = json.loads(table.read_text())
    other = {**facts["cells"][0], "method": "Other"}
    table.write_text(json.dumps({**facts, "cells": [other, *({**c, "seconds": -1.0} for c in facts["cells"])]}))
    assert call("--only", "SimpleCIL", "--update") == (0, 0)
    assert json.loads(table.read_text())["cells"] == [other, *facts["cells"]]
    assert "| Other |" in table.with_suffix(".md").read_text()


def test_a_cell_that_was_stopped_is_resumed(call, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunRecorder, "close", stop)
        assert call() == (130, 1)
    assert call() == (0, 1)  # the first seed goes on, the second starts
    assert (tmp_path / "tables" / "tiny.md").exists()


def test_settings_are_tried_on_validation_data_and_never_reported(call, tmp_path):
    assert call("--validation", "--model.head", "cosine") == (0, 2)
    assert call("--validation") == (0, 2)  # other settings are other cells
    assert not (tmp_path / "tables").exists()
    assert (tmp_path / "runs" / "tiny-validation" / "tiny-validation.md").exists()
    assert call("--model.head", "cosine") == (2, 0)
    assert not (tmp_path / "tables").exists()


def test_an_unknown_method_or_a_file_of_something_else_is_refused(call, tmp_path, capsys):
    assert call("--only", "SimpelCIL") == (2, 0)
    assert "Did you mean 'SimpleCIL'?" in capsys.readouterr().err
    (tmp_path / "tiny.yaml").write_text("model: {}")
    assert call() == (2, 0)
    assert "describes no comparison" in capsys.readouterr().err


def test_data_that_the_file_leaves_open_must_be_given():
    open_data = {**TINY, "shared": {**TINY["shared"], "data": {"scenario": {"class_path": "X", "init_args": {}}}}}
    with pytest.raises(UserError, match="--data"):
        list(compare.Matrix(**open_data).cells(None, validation=False))
    assert all("csv:a.csv" in args for _, _, args in compare.Matrix(**open_data).cells("csv:a.csv", validation=False))


def test_a_table_shows_mean_and_sample_deviation_over_seeds():
    same = {"method": "EASE", **dict.fromkeys(tables.COLUMNS, 1)}
    cells = [{**same, "seed": seed, "plasticity": p} for seed, p in ((1, 0.8), (2, 0.9))]
    (row,) = tables.summary(cells)
    assert row["std"]["plasticity"] == pytest.approx(0.1 / 2**0.5)
    line = tables.markdown("t", [row], "").splitlines()[2]
    assert "| 85.0 ± 7.1 |" in line
    assert "| 100.0 |" in line  # no spread, none shown


def test_tables_are_copied_between_their_markers_only(tmp_path):
    (tmp_path / "a.md").write_text("| new \\1 |\n")
    readme = "before\n<!-- table: a -->\n| old |\n<!-- /table -->\nafter\n"
    once = tables.filled(readme, tmp_path)
    assert once == "before\n<!-- table: a -->\n| new \\1 |\n<!-- /table -->\nafter\n"
    assert tables.filled(once, tmp_path) == once
    with pytest.raises(UserError, match=r"b\.yaml"):
        tables.filled(readme.replace("table: a", "table: b"), tmp_path)
    with pytest.raises(UserError, match="no place"):
        tables.filled("nothing", tmp_path)


def test_a_phase_inside_another_is_not_counted_twice():
    watch = phases.Stopwatch()
    inner = watch("inner", lambda: time.sleep(0.02))
    began = time.perf_counter()
    watch("outer", lambda: [inner(), inner()])()
    assert watch.seconds["inner"] >= 0.04
    assert sum(watch.seconds.values()) <= time.perf_counter() - began


def test_the_bench_prints_every_phase_as_json(capsys):
    stream = {**TINY["shared"], "model": {"backbone": "GlyphViT", "strategy": "EASE", "adapter": "Bottleneck"}}
    assert bench.main([json.dumps(stream), "--data.batch_size=4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"experiment", "threads", "device", "phases", "peak_memory_bytes", "total_seconds"} <= found.keys()
    phases = found["phases"]
    assert sum(p["seconds"] for p in phases.values()) == pytest.approx(found["total_seconds"])
    assert phases["train"]["images"] > 0
    assert phases["prototypes"]["images"] > 0
    assert phases["evaluation"]["images"] == 8  # four pictures, two adapters, each pair once
    assert phases["evaluation"]["images_per_second"] > 0


def test_the_bench_tells_what_forgetting_cost(capsys):
    first = TINY["shared"]["data"]["scenario"]
    mixed = {"class_path": "Mixed", "init_args": {"stream": first, "requests": [{"after": 2, "classes": [0]}]}}
    model = {"backbone": "GlyphViT", "strategy": "SimpleCIL", "unlearner": "DropAdapter"}
    assert bench.main([json.dumps({"model": model, "data": {"scenario": mixed}})]) == 0
    (request,) = json.loads(capsys.readouterr().out)["forget"]
    assert (request["request"], request["images"]) == ("forget-0", 0)  # no pass through the backbone
    assert request["seconds"] > 0


def test_ways_of_forgetting_are_compared_on_copies_of_one_base(tmp_path, monkeypatch, capsys):
    plan = {
        "title": "tiny", "seeds": [1], "times": 2, "classes": 1,
        "shared": {
            "model": {"backbone": "GlyphViT"},
            "data": {"scenario": {"class_path": "ClassIncremental", "init_args": {
                "dataset": "glyphs:classes=4,train=6,test=4", "increment": 2}}},
        },
        "bases": {"SLDA": {"model": {"strategy": "SLDA"}}},
        "methods": {
            "Retrain": {"base": "SLDA", "unlearner": {"class_path": "Retrain"}},
            "Subtract": {"base": "SLDA", "unlearner": {"class_path": "Subtract"}},
        },
    }  # fmt: skip
    file, places = tmp_path / "tiny.yaml", ["--runs", str(tmp_path / "runs"), "--tables", str(tmp_path / "tables")]
    file.write_text(yaml.safe_dump(plan))
    assert forgetting.main([str(file), *places]) == 0
    cells = {c["method"]: c for c in json.loads((tmp_path / "tables" / "tiny.json").read_text())["cells"]}
    assert cells["Subtract"]["accuracy_forget"] == cells["Retrain"]["accuracy_forget"] == 0
    assert cells["Subtract"]["gap_to_retrain"] == pytest.approx(0, abs=1e-6)
    assert cells["Subtract"]["images"] is None  # the features of all that remains are stored: retraining reads none
    started = []
    monkeypatch.setattr(forgetting, "carried_out", lambda *args: started.append(args))
    assert forgetting.main([str(file), *places]) == 0
    assert started == []  # all is there
    assert "| Subtract |" in capsys.readouterr().out
    monkeypatch.undo()
    (tmp_path / "runs").rename(tmp_path / "again")
    out = tmp_path / "speed.md"
    timed = ["--methods", "Retrain", "Subtract", "--runs", str(tmp_path / "again"), "--out", str(out)]
    assert bench_forgetting.main([str(file), *timed]) == 0
    assert "| Subtract |" in out.read_text()

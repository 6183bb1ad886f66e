"""Results: the documented dictionary by hand, its files, the screen and the figure."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console, RenderableType

from cl_framework.cli import inspect
from cl_framework.evaluation.measurements import Forgotten, Measurements
from cl_framework.evaluation.results import EventResult, as_csv, as_json, results, write_results
from cl_framework.evaluation.tables import headline, newest, table
from cl_framework.terminal.console import make_console

EXAMS = [("a", (0, 1)), ("b", (2, 3))]
NAMES = ["zero", "one", "two", "three", "four"]


def record(measurements: Measurements, seconds: float = 1.5, memory: int = 7) -> EventResult:
    return EventResult(measurements, seconds, 10, 3, 100, 20, 40, memory, 50)


RECORDS = [
    record(Measurements("a", "learn", (0, 1), {"a": {0: (8, 10), 1: (10, 10)}}, (19, 20))),
    record(Measurements("b", "learn", (2, 3), {"a": {0: (6, 10), 1: (8, 10)}, "b": {2: (5, 5), 3: (4, 5)}}, (24, 30))),
    record(
        Measurements(
            "forget-1",
            "forget",
            (1,),
            {"a": {0: (9, 10)}, "b": {2: (5, 5), 3: (3, 5)}},
            (20, 20),
            Forgotten(0.8, 0.1, None),
        ),
        memory=9,
    ),
]


@pytest.fixture
def found() -> dict[str, Any]:
    return results("EASE", EXAMS, RECORDS, NAMES)


def long(tasks: int) -> dict[str, Any]:
    """Results of a long stream with a forget request after every fifth task."""
    records, exams = [], []
    for t in range(tasks):
        exams.append((f"task-{t}", (t,)))
        hits = {f"task-{i}": {i: (90 - (t - i), 100)} for i in range(t + 1)}
        records.append(record(Measurements(f"task-{t}", "learn", (t,), hits)))
        if t % 5 == 4:
            records.append(record(Measurements(f"forget-{t}", "forget", (), hits, None, Forgotten(1.0, 0.5, 0.25))))
    return results("Finetune", exams, records, [str(t) for t in range(tasks)])


def text(thing: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(thing)
    return console.export_text()


def test_results_are_what_was_worked_out_by_hand(found: dict[str, Any]) -> None:
    assert (found["schema"], found["strategy"]) == (1, "EASE")
    assert found["exams"] == [{"name": "a", "classes": [0, 1]}, {"name": "b", "classes": [2, 3]}]
    assert found["class_names"] == {"0": "zero", "1": "one", "2": "two", "3": "three"}
    assert found["accuracy_matrix"] == [[0.9, None], [0.7, 0.9], [0.9, 0.8]]
    assert found["curve"] == [18 / 20, 23 / 30, 17 / 20]  # over samples, not over exams
    assert found["average_incremental_accuracy"] == pytest.approx((0.9 + 23 / 30 + 0.85) / 3)
    assert found["final_accuracy"] == 0.85
    assert found["mean_class_accuracy"] == pytest.approx((0.9 + 1.0 + 0.6) / 3)
    assert found["forgetting_max_past"] == found["forgetting_diag"] == found["backward_transfer"] == 0.0
    assert found["forgetting_max_all"] == 0.0
    assert found["plasticity"] == pytest.approx(0.9)
    assert found["per_class_accuracy"] == {"0": 0.9, "2": 1.0, "3": 0.6}
    assert found["adapter_selection_accuracy"] == [0.95, 0.8, 1.0]
    assert found["newest_accuracy"] == [18 / 20, 9 / 10, 8 / 10]
    assert found["earlier_accuracy"] == [None, 14 / 20, 9 / 10]
    assert found["events"][2] == {
        "name": "forget-1",
        "kind": "forget",
        "classes": [1],
        "seconds": 1.5,
        "trainable_parameters": 10,
        "steps": 3,
        "passes_train": 100,
        "passes_statistics": 20,
        "passes_evaluate": 40,
        "peak_memory_bytes": 9,
        "stored_bytes": 50,
        "features_found": 0,
    }
    assert found["forget"] == [
        {
            "event": "forget-1",
            "samples": None,
            "went": None,
            "stays": {},
            "accuracy_forget": 0.1,
            "accuracy_forget_before": 0.8,
            "accuracy_forget_before_any": 0.8,
            "accuracy_unseen": None,
            "accuracy_retain": 0.85,
            "accuracy_old": None,
            "h_mean": pytest.approx(2 * 0.85 * 0.7 / (0.85 + 0.7)),
            "h_mean_pre": pytest.approx(2 * 0.85 * 0.7 / (0.85 + 0.7)),
            "relapse": None,
            "relapse_event": None,
            "erosion": pytest.approx(15 / 20 - 17 / 20),  # a rival is gone
            "spillover": pytest.approx(9 / 10 - 8 / 10),
            "spillover_exams": {"b": pytest.approx(9 / 10 - 8 / 10)},
            "seconds": 1.5,
            "notes": {},
        }
    ]
    assert found["cost"] == {
        "passes_train": 300,
        "passes_statistics": 60,
        "passes_evaluate": 120,
        "features_found": 0,
        "seconds": 4.5,
        "peak_memory_bytes": 9,
        "stored_bytes": 50,
    }


def test_relapse_and_the_accuracy_before_any_request_come_from_all_days_together() -> None:
    days = [
        Measurements("a", "learn", (0, 1, 2), {"a": {0: (9, 10), 1: (10, 10), 2: (8, 10)}}),
        Measurements("b", "learn", (3,), {"a": {0: (7, 10), 1: (8, 10), 2: (6, 10)}, "b": {3: (4, 5)}}),
        Measurements(
            "f0", "forget", (0,), {"a": {1: (5, 10), 2: (6, 10)}, "b": {3: (4, 5)}}, None, Forgotten(0.7, 0.1, None)
        ),
        Measurements(
            "f1", "forget", (1, 3), {"a": {2: (6, 10)}}, None, Forgotten(9 / 15, 0.0, 0.3), {"f0": (3, 10)}
        ),
        Measurements("c", "learn", (4,), {"a": {2: (9, 10)}}, None, None, {"f0": (1, 10), "f1": (0, 10)}, {4: 3}),
    ]  # fmt: skip
    found = results("Finetune", EXAMS, [record(d) for d in days], NAMES)
    one, two = found["forget"]
    assert (one["relapse"], one["relapse_event"]) == (pytest.approx(0.2), "f1")
    assert (two["relapse"], two["relapse_event"]) == (0.0, "c")
    assert two["accuracy_forget_before"] == 9 / 15  # after the first request had hurt class 1
    assert two["accuracy_forget_before_any"] == (8 + 4) / 15
    assert two["h_mean_pre"] == pytest.approx(2 * 0.6 * 0.8 / 1.4)
    assert two["h_mean_pre"] > two["h_mean"]
    assert one["erosion"] == pytest.approx((8 + 6 + 4) / 25 - (5 + 6 + 4) / 25)
    assert (one["spillover_exams"], two["spillover"]) == ({"b": 0.0}, None)
    assert [e.get("relearned") for e in found["events"]] == [{}, {}, None, None, {"4": 3}]
    assert "erosion +12.0, spillover +0.0, relapse +20.0 points" in " ".join(text(headline(found)).split())


def test_of_samples_whose_class_stays_only_what_means_something_is_reported(tmp_path: Path) -> None:
    hits = {"a": {0: (9, 10), 1: (8, 10)}}
    less = {"a": {0: (8, 10), 1: (9, 10)}}  # 17 of 20 as before, but for rounding
    days = [
        Measurements("a", "learn", (0, 1), hits),
        Measurements("f", "forget", (), less, None, Forgotten(1.0, 0.9, None, samples=10, unseen=0.87)),
        Measurements("b", "learn", (2,), hits, None, None, {"f": (0, 10)}),  # as runs wrote before
    ]
    found = results("ACIL", EXAMS, [record(d) for d in days], NAMES)
    (told,) = found["forget"]
    assert {k: told[k] for k in ("samples", "accuracy_forget_before", "accuracy_forget", "accuracy_unseen")} == {
        "samples": 10, "accuracy_forget_before": 1.0, "accuracy_forget": 0.9, "accuracy_unseen": 0.87,
    }  # fmt: skip
    assert [told[k] for k in ("h_mean", "h_mean_pre", "relapse", "relapse_event", "accuracy_old")] == [None] * 5
    shown = " ".join(text(headline(found), 200).split())
    assert "10 samples of classes that stay: right 100.0 → 90.0 %, as are 87.0 % of test samples of these" in shown
    assert "relapse" not in shown
    assert "-0.0" not in shown
    told["samples"] = 1
    assert "1 sample of a class that stays: right 100.0" in " ".join(text(headline(found), 200).split())
    row = next(line for line in text(table(found)).splitlines() if line.startswith("- f"))
    assert row.split()[-3:] == ["100.0→90.0", "-", "-"]
    write_results(found, tmp_path)


def overlapping(*days: tuple[str, dict[str, dict[str, tuple[float, float]]]]) -> dict[str, Any]:
    hits = {"a": {0: (1, 2)}}
    measurements = [
        Measurements(n, "forget" if n == "f" else "learn", (), hits, None, None, overlap=met) for n, met in days
    ]
    return results("OLoRA", EXAMS[:1], [record(m) for m in measurements], NAMES)


@pytest.mark.usefixtures("drawn")
def test_overlaps_are_gathered_pair_by_pair_and_measured_anew_by_a_forget_request(tmp_path: Path) -> None:
    learned = [
        ("a", {}),
        ("b", {"b": {"a": (0.1, 0.5)}}),
        ("c", {"c": {"a": (0.2, 0.6), "b": (0.3, 0.7)}}),
    ]  # fmt: skip
    found = overlapping(*learned)
    assert found["overlap"] == {
        "adapters": ["a", "b", "c"],
        "input": [[None, 0.1, 0.2], [0.1, None, 0.3], [0.2, 0.3, None]],
        "output": [[None, 0.5, 0.6], [0.5, None, 0.7], [0.6, 0.7, None]],
        "mean_input": pytest.approx(0.2),
        "mean_output": pytest.approx(0.6),
    }
    assert "subspace_overlap 20.0 % of inputs, 60.0 % of outputs" in " ".join(text(headline(found)).split())
    plain = overlapping(("a", {}), ("b", {}))
    assert plain["overlap"] is None
    assert "overlap" not in text(headline(plain))
    heights = [int.from_bytes(write_results(r, tmp_path).read_bytes()[20:24]) for r in (plain, found)]
    assert heights[1] > heights[0] + 100  # the heat maps need room
    assert overlapping(*learned, ("f", {"c": {"a": (0.4, 0.4)}}))["overlap"]["adapters"] == ["a", "c"]
    assert overlapping(*learned, ("f", {}))["overlap"] is None


def test_runs_are_compared_by_overlap_only_where_one_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, met = tmp_path / "plain", tmp_path / "met"
    write_results(overlapping(("a", {}), ("b", {})), plain)
    write_results(overlapping(("a", {}), ("b", {"b": {"a": (0.1, 0.5)}})), met)
    inspect.report([str(plain)])
    assert "overlap" not in capsys.readouterr().out
    inspect.report([str(plain), str(met)])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith("overlap in  overlap out")
    assert [r.split()[-2:] for r in rows] == [["-", "-"], ["10.0", "50.0"]]


def test_marks_of_older_runs_have_no_overlap() -> None:
    measurements = Measurements("b", "learn", (0,), {"a": {0: (1, 2)}}, overlap={"b": {"a": (0.25, 0.5)}})
    told = measurements.to_dict()
    assert Measurements.from_dict(json.loads(json.dumps(told))) == measurements
    del told["overlap"]
    assert Measurements.from_dict(told).overlap == {}


def test_laxer_rules_are_shares_of_all_samples_and_none_on_days_of_older_runs(found: dict[str, Any]) -> None:
    rules = ("top_5_accuracy", "within_experience_accuracy", "experience_accuracy")
    assert [found[rule] for rule in rules] == [None, None, None]
    counted = [{}, {"experience": 27, "top_5": 30, "within_experience": 24}, {"experience": 19, "top_5": 20}]
    days = [
        structs.replace(r, measurements=replace(r.measurements, lenient=by))
        for r, by in zip(RECORDS, counted, strict=True)
    ]
    told = [json.loads(json.dumps(day.to_dict())) for day in days]
    del told[0]["marks"]["lenient"]  # as it was written before they were counted
    now = results("EASE", EXAMS, [EventResult.from_dict(t) for t in told], NAMES)
    assert now["top_5_accuracy"] == [None, 30 / 30, 20 / 20]
    assert now["within_experience_accuracy"] == [None, 24 / 30, None]
    assert now["experience_accuracy"] == [None, 27 / 30, 19 / 20]
    gone = results(
        "EASE", EXAMS, [record(replace(RECORDS[2].measurements, exams={}, lenient={"experience": 0}))], NAMES
    )
    assert gone["experience_accuracy"] == [None]
    assert {k: v for k, v in now.items() if k not in rules} == {k: v for k, v in found.items() if k not in rules}


def test_once_the_newest_experience_is_forgotten_only_earlier_ones_have_an_accuracy() -> None:
    days = [
        Measurements("a", "learn", (0,), {"a": {0: (9, 10)}}),
        Measurements("b", "learn", (2,), {"a": {0: (8, 10)}, "b": {2: (1, 5)}}),
        Measurements("f", "forget", (2,), {"a": {0: (7, 10)}}, None, Forgotten(0.2, 0.0, None)),
        Measurements("c", "learn", (3,), {"a": {0: (6, 10)}, "c": {3: (5, 5)}}),
    ]  # fmt: skip
    found = results("EASE", EXAMS, [record(d) for d in days], NAMES)
    assert found["newest_accuracy"] == [0.9, 0.2, None, 1.0]
    assert found["earlier_accuracy"] == [None, 0.8, 0.7, 0.6]


def test_without_selection_there_is_none_and_without_forgetting_no_entry() -> None:
    found = results("Finetune", EXAMS[:1], [record(Measurements("a", "learn", (0, 1), {"a": {0: (1, 2)}}))], NAMES)
    assert found["adapter_selection_accuracy"] is None
    assert found["forget"] == []


def test_an_exam_whose_classes_are_all_gone_is_none_and_so_is_a_day_without_classes() -> None:
    gone = Measurements("forget-all", "forget", (0, 1), {}, None, Forgotten(None, None, None))
    found = results("EASE", EXAMS[:1], [RECORDS[0], record(gone)], NAMES)
    assert found["accuracy_matrix"] == [[0.9], [None]]
    assert found["curve"] == [0.9, None]
    assert found["final_accuracy"] is None
    assert found["average_incremental_accuracy"] == 0.9
    assert found["forget"][0]["h_mean"] is None


def test_records_survive_json() -> None:
    for r in RECORDS:
        told = r.to_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert EventResult.from_dict(told) == r


def test_results_are_valid_json_that_reads_back_equal(found: dict[str, Any]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(as_json(found), parse_constant=refuse) == found
    assert "[0.9, null],\n    [0.7, 0.9]," in as_json(found)  # a matrix is read row by row
    with pytest.raises(ValueError, match="JSON"):
        as_json({**found, "final_accuracy": float("nan")})


def test_two_runs_that_differ_in_time_and_memory_are_the_same_without_them(world: Any, found: dict[str, Any]) -> None:
    slower = results("EASE", EXAMS, [record(r.measurements, seconds=99.0, memory=12345) for r in RECORDS], NAMES)
    assert slower != found
    assert world.timeless(slower) == world.timeless(found)
    other = results("EASE", EXAMS, [*RECORDS[:2], RECORDS[1]], NAMES)
    assert world.timeless(other) != world.timeless(found)
    assert found["cost"]["seconds"] == 4.5  # untouched


def test_the_csv_has_a_line_for_every_event_and_exam(found: dict[str, Any]) -> None:
    lines = list(csv.DictReader(as_csv(found).splitlines()))
    assert len(lines) == 3 * 2
    assert lines[1] == {"event": "a", "kind": "learn", "exam": "b", "accuracy": "", "curve": "0.9"}
    assert lines[4] == {"event": "forget-1", "kind": "forget", "exam": "a", "accuracy": "0.9", "curve": "0.85"}


@pytest.mark.usefixtures("drawn")
def test_writing_leaves_three_whole_files_and_writing_again_replaces_them(
    found: dict[str, Any], tmp_path: Path
) -> None:
    write_results(long(2), tmp_path)
    figure = write_results(found, tmp_path)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["figures/accuracy.png", "results.csv", "results.json"]
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert figure == tmp_path / "figures" / "accuracy.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("tasks", [0, 1, 5, 6, 22])
def test_streams_of_any_length_can_be_written_and_shown(tasks: int, tmp_path: Path) -> None:
    found = long(tasks)
    assert write_results(found, tmp_path).stat().st_size > 5000
    shown = text(table(found))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert len(shown.splitlines()) == 1 + len(found["events"]) + ("results.csv has each" in shown)
    assert "final_accuracy" in text(headline(found))


def test_the_table_shows_each_exam_and_what_was_forgotten(found: dict[str, Any]) -> None:
    shown = [line.split() for line in text(table(found)).splitlines()]
    assert shown[0] == ["request", "a", "b", "all", "forgotten", "old", "H"]
    assert shown[1] == ["+", "a", "90.0", "90.0"]
    assert shown[2] == ["+", "b", "70.0", "90.0", "76.7"]
    assert shown[3] == ["-", "forget-1", "90.0", "80.0", "85.0", "80.0→10.0", "-", "76.8"]


def test_a_long_table_shows_the_newest_exam_and_the_mean_and_worst_of_the_others() -> None:
    shown = [line.split() for line in text(table(long(12))).splitlines()]
    assert shown[0][:5] == ["request", "newest", "earlier", "worst", "all"]
    assert shown[1][:4] == ["+", "task-0", "90.0", "90.0"]
    assert shown[3][:6] == ["+", "task-2", "90.0", "88.5", "88.0", "89.0"]


@pytest.mark.parametrize("width", [80, 60])
def test_no_number_of_twenty_experiences_is_cut(width: int) -> None:
    found = long(20)
    out = io.StringIO()
    make_console(file=out, width=width).print(table(found, width))
    shown = out.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "20 exams, summed up; results.csv has each" in shown
    for overall in found["curve"]:
        assert f"{100 * overall:.1f}" in shown.split()
    drops = [f"{100 * f['accuracy_forget_before']:.1f}→{100 * f['accuracy_forget']:.1f}" for f in found["forget"]]
    assert drops
    assert set(drops) <= set(shown.split())


def test_a_log_gets_one_new_row_for_a_request_under_the_same_columns() -> None:
    found = long(20)
    first, later = text(newest(found, head=True)).splitlines(), text(newest(found, head=False)).splitlines()
    assert (len(first), len(later)) == (2, 1)
    assert first[1] == later[0]
    assert first[0].split() == ["request", "newest", "earlier", "worst", "all", "forgotten", "old", "H"]


def test_the_headline_names_its_formulas(found: dict[str, Any]) -> None:
    shown = text(headline(found))
    for line in (
        "final_accuracy 85.0 %",
        "forgetting_max_past 0.0 %",
        "forget-1 forgotten 80.0 → 10.0 %, retained 85.0 %",
    ):
        assert line in " ".join(shown.split())


def test_reading_results_needs_no_torch_and_drawing_only_on_demand() -> None:
    code = "import sys, cl_framework.evaluation.results; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False)
    assert done.returncode == 0

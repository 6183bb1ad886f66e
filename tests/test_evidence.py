"""The reported comparison keeps the order that the literature leads one to expect."""

import json
from pathlib import Path

import pytest

TABLES = Path(__file__).parents[1] / "docs" / "tables"
MEASURES = ("average_incremental_accuracy", "final_accuracy")


def measured(table, measure):
    return {m["method"]: m["mean"][measure] for m in json.loads((TABLES / table).read_text())["methods"]}


@pytest.mark.parametrize("measure", MEASURES)
def test_methods_come_in_the_order_of_the_literature(measure):
    found = measured("glyphs.json", measure)
    assert len(found) == 20
    assert found["Finetune"] < found["SimpleCIL"] < found["APER"] < found["EASE"]
    assert found["EASE"] < min(found["MOS"], found["SSIAT"], found["SLCA"])


@pytest.mark.parametrize("measure", MEASURES)
def test_every_method_lies_between_finetuning_and_learning_everything_at_once(measure):
    found = measured("glyphs.json", measure)
    assert min(found, key=found.__getitem__) == "Finetune"
    assert max(found, key=found.__getitem__) == "Joint"


@pytest.mark.parametrize("measure", MEASURES)
def test_on_omniglot_nothing_lies_below_finetuning_or_more_than_a_point_above_learning_everything(measure):
    found = measured("omniglot.json", measure)
    assert len(found) == 20
    assert min(found, key=found.__getitem__) == "Finetune"
    assert max(found.values()) < found["Joint"] + 0.01


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("table", "methods"), [("clinc150.json", 13), ("clinc150_domains.json", 12)])
def test_sentences_read_by_a_really_pretrained_encoder_keep_the_order_too(table, methods, measure):
    found = measured(table, measure)
    assert len(found) == methods
    assert found["Finetune"] < found["SimpleCIL"]
    assert max(found["SimpleCIL"], found["APER"], found["EASE"]) < min(found["MOS"], found["SSIAT"], found["SLCA"])


@pytest.mark.parametrize("table", ["clinc150.json", "clinc150_domains.json"])
def test_sentences_agree_with_what_was_measured_apart_from_this_code(table):
    found = measured(table, "final_accuracy")
    assert found["SimpleCIL"] == pytest.approx(0.916, abs=0.005)
    assert found["RanPAC"] >= 0.945
    assert found.get("Joint", 1) > 0.96


@pytest.mark.parametrize("table", ["glyphs.json", "omniglot.json", "clinc150.json", "clinc150_domains.json"])
def test_a_reported_table_is_of_three_seeds_of_every_method(table):
    facts = json.loads((TABLES / table).read_text())
    cells = [(c["method"], c["seed"]) for c in facts["cells"]]
    assert sorted(cells) == sorted((m["method"], s) for m in facts["methods"] for s in (1993, 1994, 1995))


FORGETTING = TABLES / "forgetting.json"
REHEARSING = ("NegGrad+", "RandomLabels", "SalUn", "SCRUB", "BadTeacher", "UNSIR")


def forgetting():
    return {m["method"]: m["mean"] for m in json.loads(FORGETTING.read_text())["methods"]}


@pytest.mark.parametrize("method", ["EASE, DropAdapter", "SimpleCIL, DropAdapter", "SLDA, Subtract", "ACIL, Subtract"])
def test_the_exact_path_cannot_be_told_from_a_model_that_never_met_it(method):
    row = forgetting()[method]
    assert row["gap_to_retrain"] == pytest.approx(0, abs=1e-6)
    assert row["js_to_retrained"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", REHEARSING)
def test_gs_lora_forgets_and_retains_at_least_as_well_as_what_rehearses_as_much(method):
    assert forgetting()["GSLoRA"]["h_mean_pre"] >= forgetting()[method]["h_mean_pre"]


def test_gs_lora_trains_little_and_costs_little():
    row = forgetting()["GSLoRA"]
    assert row["trained"] <= 0.02
    assert row["images"] <= 0.05


def test_deleting_rows_leaves_everything_in_the_features():
    row = forgetting()["HeadRows"]
    assert row["accuracy_forget"] == 0
    assert row["recovery_probe_ridge"] == pytest.approx(1)
    assert row["old_rows_accuracy"] > 0.7

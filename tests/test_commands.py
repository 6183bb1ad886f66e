"""The verbs, typed as a user would, in one process and on a run that takes seconds."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from cl_framework.cli.main import main
from cl_framework.configuration.experiment import build
from cl_framework.runs.directory import RunDirectory

TINY = ["--config", "configs/quickstart.yaml", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished quickstart, trained for two steps per experience."""
    path = tmp_path_factory.mktemp("runs") / "ease"
    assert main(["run", *TINY, "--run_dir", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "ease")


def read(run):
    return json.loads((run / "results.json").read_text())


def files(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_run_leaves_results_figure_and_receipt(finished):
    results = read(finished)
    assert [e["kind"] for e in results["events"]] == ["learn", "learn", "learn", "forget", "learn", "learn"]
    assert results["forget"][0]["accuracy_forget"] == 0.0
    assert (finished / "figures" / "accuracy.png").is_file()
    assert len((finished / "receipts.jsonl").read_text().splitlines()) == 1
    assert main(["verify", str(finished)]) == 0


def test_forget_on_a_finished_run_retrains_what_shared_an_adapter(run, capsys):
    assert main(["forget", str(run), "--classes", "3", "7"]) == 0
    results = read(run)
    last = results["events"][-1]
    assert (last["name"], last["kind"], last["classes"]) == ("forget-1", "forget", [3, 7])
    assert results["forget"][-1]["accuracy_forget"] == 0.0 < results["forget"][-1]["accuracy_forget_before"]
    assert sorted(results["per_class_accuracy"]) == ["0", "1", "2", "6", "8", "9"]
    assert len((run / "receipts.jsonl").read_text().splitlines()) == 2
    assert re.search(r"forget-1 .*→0\.0", capsys.readouterr().out)
    assert main(["verify", str(run)]) == 0


def test_learn_on_a_finished_run_numbers_new_classes_after_the_old(run):
    more = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", "glyphs:classes=4,train=8,test=4"]
    assert main(["learn", str(run), *more]) == 0
    assert min(read(run)["events"][-1]["classes"]) >= 10
    assert main(["forget", str(run), "--experience", read(run)["events"][-1]["name"]]) == 0
    assert main(["evaluate", str(run)]) == 0


def test_forget_by_sample_file(run, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("0\n1\n")
    assert main(["forget", str(run), "--samples", str(ids)]) == 0
    assert read(run)["events"][-1]["classes"] == []


def test_resume_of_a_finished_run_says_so_and_changes_no_event(run, capsys):
    before = {p: b for p, b in files(run).items() if "events" in p.parts}
    assert main(["resume", str(run)]) == 0
    assert re.search(r"\b0 of \d+ requests left", "".join(capsys.readouterr()))
    assert {p: b for p, b in files(run).items() if "events" in p.parts} == before


def test_a_run_stopped_between_events_resumes_to_the_same_bits(world, finished, tmp_path, monkeypatch, capsys):
    commit, path = RunDirectory.commit, tmp_path / "stopped"

    def stop_after_three(run, *args, **options):
        if len(run.events()) == 3:
            raise KeyboardInterrupt
        return commit(run, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "commit", stop_after_three)
        assert main(["run", *TINY, "--run_dir", str(path)]) == 130
    assert f"clf resume {path}" in capsys.readouterr().err
    assert main(["resume", str(path)]) == 0
    assert world.timeless(read(path)) == world.timeless(read(finished))
    first, second = RunDirectory.open(finished).state(), RunDirectory.open(path).state()
    assert all(torch.equal(first[k], second[k]) for k in first.keys() | second.keys())


def test_what_cannot_be_honoured_is_refused_before_anything_is_learned(tmp_path, capsys):
    assert main(["run", *TINY, "--run_dir", str(tmp_path / "r"), "--model.strategy", "Finetune"]) == 2
    able = capsys.readouterr().err.partition("Use one that can: ")[2].rstrip(".\n").split(", ")
    assert {"NegGradPlus", "Retrain"} <= set(able)
    assert "DropAdapter" not in able
    assert not (tmp_path / "r").exists()


def test_predict_prints_names(finished, tmp_path, capsys):
    image = tmp_path / "eight.png"
    Image.fromarray((load_digits().images[8] * 15.9).astype("uint8")).resize((40, 40)).save(image)
    assert main(["predict", str(finished), str(image), "--top", "2"]) == 0
    assert re.search(r"eight\.png +8 +0\.\d", capsys.readouterr().out)


def test_evaluate_agrees_with_what_was_recorded(finished, capsys):
    assert main(["evaluate", str(finished)]) == 0
    assert "agrees" in capsys.readouterr().out


def test_plan_shows_the_stream_and_the_sites(capsys):
    assert main(["plan", *TINY]) == 0
    shown = capsys.readouterr().out
    assert "forget-0" in shown
    assert "6 sites (block_mlp)" in shown


@pytest.mark.parametrize(("said", "computed"), [("32-true", None), ("bf16-mixed", torch.bfloat16)])
def test_frozen_passes_take_the_precision_of_the_trainer(said, computed):
    experiment = build([*TINY, "--trainer.precision", said], Console())
    assert experiment.learner.model.frozen.precision is computed


MISTAKES = {
    "unknown strategy": (["--model.strategy", "EASEE"], "Did you mean 'EASE'"),
    "unknown unlearner": (["--model.unlearner", "DropAdaptor"], "Did you mean 'DropAdapter'"),
    "wrong flag": (["--model.strategi", "EASE"], "Did you mean 'model.strategy'"),
    "wrong setting": (["--model.strategy.alphaa", "1"], "EASE has no setting 'alphaa'. Did you mean 'alpha'"),
    "wrong type": (["--trainer.max_epochs", "few"], "trainer.max_epochs must be a whole number"),
    "unknown data": (["--data.scenario.stream.dataset", "digitz"], "Did you mean 'digits'"),
    "missing folder": (["--data.scenario.stream.dataset", "imagefolder:nowhere"], "nowhere"),
    "missing config": (["--config", "nowhere.yaml"], "nowhere.yaml; give the path of a config that exists"),
    "class never learned": (["--data.scenario.requests", "[{after: 1, classes: [9]}]"], "never learned"),
    "class gone": (["--data.scenario.requests", "[{after: 2, classes: [2]}, {after: 3, classes: [2]}]"], "lready gone"),
    "precision that casts the backbone": (["--trainer.precision", "bf16-true"], "use bf16-mixed"),
    "several devices": (["--trainer.devices", "2"], "set trainer.devices to 1"),
    "one of three": (["--model.compute.attention", "fussed"], "attention cannot be 'fussed'. Did you mean 'fused'"),
    "features in a file": (["--features", __file__], "give --features a directory that you may write to"),
    "short spelling": (["--model.backbone", "huggingfcae:NAME"], "Did you mean 'huggingface:NAME'"),
    "an empty batch": (["--data.batch_size", "0"], "at least 1"),
    "wrong section": (["--modle.strategy", "EASE"], "There is no setting 'modle.strategy'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(name, tmp_path, capsys):
    args, told = MISTAKES[name]
    assert main(["run", *TINY, "--run_dir", str(tmp_path / "r"), *args]) == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "r").exists()


def test_a_wrong_key_in_yaml_is_named(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("model:\n  strategy: {class_path: EASE, init_args: {alpa: 3}}\n")
    assert main(["run", *TINY, "--config", str(tmp_path / "bad.yaml")]) == 2
    assert "EASE has no setting 'alpa'. Did you mean 'alpha'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["forget", "RUN", "--classes", "4", "--samples", "99999999"], "learned from no sample 99999999"),
        (["forget", "RUN", "--classes", "eleven"], "There is no class 'eleven'"),
        (["forget", "RUN"], "names nothing"),
        (["forget", "RUN", "--samples", "nowhere.txt"], "is no file, id, name or pattern of a sample"),
        (["predict", "RUN", "nowhere.png"], "nowhere.png"),
        (["learn", "RUN", "--data.scenario", "ClassIncrementa"], "Did you mean 'ClassIncremental'"),
    ],
)
def test_a_bad_request_leaves_the_run_as_it_was(run, args, told, capsys):
    before = files(run)
    assert main([str(run) if a == "RUN" else a for a in args]) == 2
    assert told in capsys.readouterr().err
    assert files(run) == before


def test_an_edited_state_file_is_named_and_not_loaded(run, capsys):
    victim = next(run.glob("events/000*/state.safetensors"))
    raw = bytearray(victim.read_bytes())
    raw[-1] ^= 1
    victim.write_bytes(bytes(raw))
    assert main(["forget", str(run), "--classes", "0"]) == 2
    assert str(victim) in capsys.readouterr().err
    assert main(["verify", str(run)]) == 1


def test_a_run_of_a_newer_schema_is_refused(run, capsys):
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 4', '"schema": 99'))
    assert main(["resume", str(run)]) == 2
    assert "schema 99 and this version knows 4" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten(finished, capsys):
    assert main(["run", *TINY, "--run_dir", str(finished)]) == 2
    assert "already holds a run" in capsys.readouterr().err

"""`clf forget` as a user types it: once, again, in part, signed, interrupted, side by side."""

import json
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from cl_framework.cli import plan_forget
from cl_framework.cli.main import main
from cl_framework.runs import receipts
from cl_framework.runs.directory import RunDirectory

DATA = "glyphs:classes=6,train=6,test=3"
SMALL = [
    "--data.scenario", "ClassIncremental", "--data.scenario.dataset", DATA, "--data.scenario.increment", "2",
    "--data.scenario.order_seed", "null", "--trainer.max_epochs", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished runs by strategy."""
    root = tmp_path_factory.mktemp("runs")
    for strategy, unlearner in (("SimpleCIL", "DropAdapter"), ("Finetune", "Retrain")):
        args = ["--model.strategy", strategy, "--model.unlearner", unlearner, "--run_dir", str(root / strategy)]
        assert main(["run", *SMALL, *args]) == 0
    return root


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run with prototypes."""
    return shutil.copytree(made / "SimpleCIL", tmp_path / "run")


@pytest.fixture
def shared(made, tmp_path):
    """A copy of the run whose adapter is shared."""
    return shutil.copytree(made / "Finetune", tmp_path / "shared")


def files(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def results(run):
    return json.loads((run / "results.json").read_text())


def test_removing_a_class_that_owns_its_state_reads_no_image(run):
    before = results(run)["cost"]
    assert main(["forget", str(run), "--classes", "3"]) == 0
    after = results(run)
    assert all(after["cost"][k] == before[k] for k in before if k.startswith("passes_"))
    (receipt,) = receipts.read_receipts(run)
    assert receipt["verified"] == ["logical", "physical", "model"]
    assert receipt["bytes_removed"] > 0
    assert receipt["read"]["trained_on"] == {"forget": 0, "retain": 0}


def test_asking_again_changes_nothing_and_names_the_receipt(run, capsys):
    name = results(run)["class_names"]["3"]
    assert main(["forget", str(run), "--classes", "3"]) == 0
    whole = files(run)
    assert main(["forget", str(run), "--classes", "3"]) == 0
    assert f"Already forgotten: class {name} (id:3); receipts.jsonl line 1" in capsys.readouterr().out
    assert main(["forget", str(run), "--classes", name]) == 0
    assert f"Already forgotten: class {name} (id:3); receipts.jsonl line 1" in capsys.readouterr().out
    assert files(run) == whole


def test_asking_again_finishes_what_a_kill_left_undone(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "cl_framework.evaluation.results.write_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert main(["forget", str(run), "--classes", "3"]) == 130
    assert not (run / "results.json").exists(), "the old one names the class"
    assert len(receipts.read_receipts(run)) == 1
    assert main(["forget", str(run), "--classes", "3"]) == 0
    assert results(run)["class_names"]["3"] == "(forgotten)"
    assert len(receipts.read_receipts(run)) == 1
    assert main(["verify", str(run)]) == 0


def test_what_is_left_of_a_request_is_carried_out(run, capsys, tmp_path):
    assert main(["forget", str(run), "--experiences", "task-1"]) == 0
    (tmp_path / "ids.txt").write_text("0 12")  # sample 12 went with its class
    asked = ["--experience", "task-1", "--classes", "4", "--samples", str(tmp_path / "ids.txt")]
    assert main(["forget", str(run), *asked]) == 0
    said = capsys.readouterr().out
    assert "Already forgotten: experience task-1; receipts.jsonl line 1" in said
    assert "Already forgotten: sample 12; receipts.jsonl line 1" in said
    assert results(run)["events"][-1]["classes"] == [4]
    assert receipts.read_receipts(run)[1]["classes"]["count"] == 1
    assert receipts.covering(run, "sample", [0, 12]) == {0: 2, 12: 1}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--classes", "99"], "There is no class '99'"),
        (["--experiences", "task-9"], "never learned"),
        (["--classes", "3", "--model.strategy", "EASE"], "has no option --model.strategy"),
        (["--classes", "3", "--sign", "nowhere.pem"], "nowhere.pem cannot be read"),
        (["--classes", "3", "--unlearner", "DropAdaptor"], "Did you mean 'DropAdapter'"),
        (["--classes", "3", "--unlearner", "NegGradPlus"], "cannot honour"),
        ([], "names nothing"),
    ],
)
def test_a_mistake_changes_nothing(run, args, told, capsys):
    before = files(run)
    assert main(["forget", str(run), *args]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert files(run) == before


def test_an_unlearner_brings_its_own_settings_and_the_receipt_claims_no_more_than_it_did(shared):
    edit = ["--unlearner", "NegGradPlus", "--model.unlearner.epochs=1"]
    assert main(["forget", str(shared), "--classes", "0", *edit, "--model.unlearner.keep_rows", "true"]) == 0
    assert main(["forget", str(shared), "--classes", "2", *edit]) == 0
    kept, parted = receipts.read_receipts(shared)
    assert kept["settings"]["values"].items() >= {"balance": 0.95, "epochs": 1, "keep_rows": True}.items()
    assert kept["verified"] == []
    assert parted["verified"] == ["logical", "physical"]
    assert "may still tell of it" in parted["residual"]
    assert 0 < parted["read"]["trained_on"]["forget"] <= 6
    assert main(["evaluate", str(shared)]) == 0


def test_data_that_cannot_be_had_is_told_to_the_unlearner(shared, capsys):
    assert main(["forget", str(shared), "--classes", "0", "--unlearner", "NegGradPlus", "--without", "retain"]) == 2
    assert "it reads the samples to retain, which cannot be had" in capsys.readouterr().err


def keys(folder):
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    return str(folder / "key.pem"), str(folder / "key.pub")


def test_what_else_lies_in_the_directory_is_named_and_left(run, capsys):
    """Loggers write where the user says. What they wrote is not the run's to change, nor to vouch for."""
    assert main(["forget", str(run), "--classes", "3"]) == 0
    assert "did not write" not in capsys.readouterr().out
    (run / "lightning_logs/version_0").mkdir(parents=True)
    (run / "lightning_logs/version_0/metrics.csv").write_text("step,loss\n1,0.5\n")
    assert main(["forget", str(run), "--classes", "4"]) == 0
    assert "left them as they are: lightning_logs/version_0/metrics.csv\n" in capsys.readouterr().out
    clean, other = (r["residual"] for r in receipts.read_receipts(run))
    assert "not looked into: 1." in other
    assert "not looked into" not in clean
    assert (run / "lightning_logs/version_0/metrics.csv").exists()
    assert main(["verify", str(run)]) == 0


def test_checkpoints_that_would_keep_what_is_forgotten_are_refused(tmp_path, capsys):
    keep = ["--trainer.enable_checkpointing", "true", "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["run", *SMALL, *keep, "--run_dir", str(tmp_path / "run")]) == 2
    assert "Lightning's checkpoints would keep what a forget request must remove" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_signed_receipt_outlives_a_kill_before_its_line_is_written(run, tmp_path, monkeypatch, capsys):
    private, public = keys(tmp_path)
    assert main(["forget", str(run), "--classes", "1"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("cl_framework.runs.receipts.append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["forget", str(run), "--classes", "3", "--sign", private]) == 130
    assert len(receipts.read_receipts(run)) == 1
    assert main(["resume", str(run)]) == 0
    assert len(receipts.read_receipts(run)) == 2
    assert main(["verify", str(run), "--public", public]) == 0
    assert "signatures valid" in capsys.readouterr().out
    assert main(["forget", str(run), "--classes", "2"]) == 0
    assert main(["verify", str(run), "--public", public]) == 1
    assert "line 3 and what follows is not signed" in capsys.readouterr().out


def test_a_class_learned_again_is_recognised_by_its_name(run, capsys):
    name = results(run)["class_names"]["3"]
    assert main(["forget", str(run), "--classes", name]) == 0
    assert main(["learn", str(run), "--data.scenario", "ClassIncremental", "--data.scenario.dataset", DATA,
                 "--data.scenario.order", "[3]", "--data.scenario.increment", "1"]) == 0  # fmt: skip
    assert f"forgotten before: {name} (id:6) was id:3" in " ".join(capsys.readouterr().out.split())
    told = RunDirectory.open(run)
    assert [told.metrics(e)["marks"]["relearned"] for e in told.events()][-1] == {"6": 3}
    assert results(run)["class_names"]["6"] == name
    assert main(["forget", str(run), "--classes", name]) == 0, "the name now stands for the class alive"
    assert results(run)["events"][-1]["classes"] == [6]
    assert {results(run)["class_names"][c] for c in "36"} == {"(forgotten)"}
    assert main(["evaluate", str(run)]) == 0


def test_two_processes_are_serialised_and_the_second_is_told_by_whom(run, capsys):
    hold = f"with RunDirectory.open({str(run)!r}).lock(): print('held', flush=True); input()"
    code = f"from cl_framework.runs.directory import RunDirectory\n{hold}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        before = files(run)
        assert main(["forget", str(run), "--classes", "3"]) == 2
        said = capsys.readouterr().err
        assert f"in use by process {other.pid}; nothing was changed: wait for it to end" in said
        assert files(run) == before
        other.communicate(b"\n")
    assert main(["forget", str(run), "--classes", "3"]) == 0


@pytest.mark.parametrize("verb", [["plan-forget"], ["forget", "--dry-run"]])
def test_what_would_be_done_is_shown_and_nothing_is_done(run, verb, monkeypatch):
    before, shown = files(run), []
    monkeypatch.setattr(plan_forget, "print_plan", lambda run, *_: shown.append(run.steps[-1].event))
    assert main([verb[0], str(run), *verb[1:], "--classes", "3"]) == 0
    assert [e.classes for e in shown] == [(3,)]
    assert files(run) == before


def planned(capsys, *args):
    """What `clf plan-forget --json` prints, and its artifacts by kind."""
    capsys.readouterr()
    assert main(["plan-forget", *map(str, args), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kinds = {}
    for a in told["artifacts"]:
        kinds.setdefault(a["kind"], []).append(a)
    return told, kinds


def test_the_samples_of_every_artifact_are_told_as_json(shared, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("1")  # of class 0, whose samples are 0 to 5
    edit = ["--unlearner", "NegGradPlus", "--model.unlearner.epochs=1"]
    assert main(["forget", str(shared), "--samples", str(tmp_path / "ids.txt"), *edit]) == 0
    before = files(shared)
    told, kinds = planned(capsys, shared, "--classes", 0)
    assert files(shared) == before
    assert (told["request"], told["policy"], told["classes"]) == ("forget-1", "exact", [0])
    assert (told["samples"], told["test_samples"]) == (5, 3)
    classes = {f"task-{t}": {str(2 * t): 6, str(2 * t + 1): 6} for t in range(3)}
    (adapter,), (logs,), (receipt,) = kinds["adapter"], kinds["logs"], kinds["receipts"]
    for met_all in (adapter, logs, *kinds["head row"]):
        assert met_all["made_from"] == classes
        assert (met_all["samples"], met_all["samples_that_go"], met_all["samples_forgotten_before"]) == (36, 5, 1)
    assert receipt["made_from"] == {"task-0": {"0": 1}}
    for table in kinds["results"]:
        assert table["made_from"] == {"task-0": {"0": 1}}
        assert (table["test_samples"], table["test_samples_that_go"]) == (18, 3)
    metrics = [(a["test_samples"], a["samples"]) for a in kinds["event metrics"]]
    assert metrics == [(6, 0), (12, 0), (18, 0), (18, 1)], "the sample was examined, as no class went with it"
    assert {a["name"]: (a["samples"], a["action"]) for a in kinds["checkpoint"]} == {
        "000-learn-task-0": (0, "keep"),
        "001-learn-task-1": (0, "keep"),
        "002-learn-task-2": (36, "rewrite"),  # the head; the adapter was taken out when it was edited
        "003-forget-forget-0": (36, "rewrite"),
    }
    _, kinds = planned(capsys, shared, "--classes", 0, "--ids")
    assert kinds["adapter"][0]["made_from"]["task-0"]["0"] == [0, 1, 2, 3, 4, 5]
    (tmp_path / "ids.txt").write_text("1 2")
    told, kinds = planned(capsys, shared, "--samples", tmp_path / "ids.txt", *edit)
    assert (told["samples"], kinds["adapter"][0]["samples_that_go"], told["policy"]) == (1, 1, "approximate")

    assert main(["forget", str(shared), "--classes", "0"]) == 0  # learns again
    _, kinds = planned(capsys, shared, "--classes", 1)
    assert kinds["adapter"][0]["made_from"]["task-0"] == {"1": 6}
    assert not any(a["samples_forgotten_before"] for k in ("adapter", "head row", "checkpoint") for a in kinds[k])
    assert main(["plan-forget", str(shared), "--classes", "1", "--ids"]) == 2


def test_a_checkpoint_holds_what_its_tensors_were_made_of_then(run, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("0")
    _, kinds = planned(capsys, run, "--samples", tmp_path / "ids.txt")
    assert [a["made_from"] for a in kinds["checkpoint"]] == [
        {f"task-{t}": {str(2 * t): 6, str(2 * t + 1): 6}} for t in range(3)
    ]
    assert [a["samples_that_go"] for a in kinds["checkpoint"]] == [1, 0, 0]
    assert [a["action"] for a in kinds["checkpoint"]] == ["rewrite", "keep", "keep"]
    (row,) = [a for a in kinds["stored features"] if a["why"] == "of samples that go"]
    assert (row["name"], row["made_from"]) == ("1 rows", {"task-0": {"0": 1}})
    assert main(["forget", str(run), "--samples", str(tmp_path / "ids.txt")]) == 0
    _, kinds = planned(capsys, run, "--classes", 1)
    held = {a["name"]: a["made_from"] for a in kinds["checkpoint"]}
    assert held["000-learn-task-0"] == {"task-0": {"1": 6}}
    assert held["003-forget-forget-0"] == {"task-0": {"0": 5}}


def test_help_teaches_by_example(capsys):
    for verb in ("forget", "plan-forget"):
        assert main([verb, "--help"]) == 0
        assert "clf forget runs/quickstart --classes 3 7" in capsys.readouterr().out

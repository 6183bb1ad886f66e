"""A class is its name, on the command line too: learned again it is more of the same, and forgotten it is gone."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import torch
from PIL import Image

from cl_framework.cli.main import main
from cl_framework.errors import UserError
from cl_framework.runs import contents, receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.identifiers import as_typed, class_ids

DATA = "glyphs:classes=4,train=5,test=3"
OTHER = f"{DATA},seed=1"
CI = ["--data.scenario", "ClassIncremental", "--data.scenario.order_seed", "null", "--data.scenario.dataset"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished runs by strategy, each of two experiences of two classes."""
    root = tmp_path_factory.mktemp("runs")
    for strategy, unlearner in (("EASE", "DropAdapter"), ("SimpleCIL", "DropAdapter"), ("Finetune", "Retrain")):
        args = ["--model.strategy", strategy, "--model.unlearner", unlearner, "--run_dir", str(root / strategy)]
        assert main(["run", *CI, DATA, "--trainer.max_epochs", "1", *args]) == 0
    return root


@pytest.fixture
def once(made, tmp_path):
    """A copy of the run whose method learns a class once."""
    return shutil.copytree(made / "EASE", tmp_path / "once")


@pytest.fixture
def shared(made, tmp_path):
    """A copy of the run whose method learns more of a class."""
    return shutil.copytree(made / "Finetune", tmp_path / "shared")


def results(run):
    return json.loads((run / "results.json").read_text())


def said(capsys):
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_more_of_a_live_class_is_refused_where_a_method_learns_a_class_once(once, capsys):
    before = {p: p.read_bytes() for p in once.rglob("*") if p.is_file() and p.name != ".lock"}
    name = results(once)["class_names"]["0"]
    assert main(["learn", str(once), *CI, OTHER]) == 2
    told = said(capsys)
    assert f"brings class {name} (id:0) again, and EASE learns a class once" in told
    assert "one that learns more of it: ACIL, APER, DERPlusPlus" in told
    assert "or give --as_new PREFIX to learn it as a class of its own" in told
    assert before == {p: p.read_bytes() for p in once.rglob("*") if p.is_file() and p.name != ".lock"}


def test_with_a_prefix_they_are_classes_of_their_own_also_after_a_kill(once, capsys, monkeypatch):
    names = results(once)["class_names"]
    commit = RunDirectory.commit

    def stop_at_the_fourth(run, *args, **options):
        if len(run.events()) == 3:
            raise KeyboardInterrupt
        return commit(run, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "commit", stop_at_the_fourth)
        assert main(["learn", str(once), *CI, OTHER, "--as_new", "lab-"]) == 130
    assert main(["resume", str(once)]) == 0
    new = {str(int(c) + 4): f"lab-{name}" for c, name in names.items()}
    assert results(once)["class_names"] == {**names, **new}
    assert main(["forget", str(once), "--classes", new["4"]]) == 0
    assert results(once)["events"][-1]["classes"] == [4]
    listed = {s.class_name for s in contents.known_samples(RunDirectory.open(once))}
    assert listed == {*names.values(), *new.values()} - {new["4"]}, "as the run calls them"
    assert main(["forget", str(once), "--classes", names["0"]]) == 0
    assert results(once)["events"][-1]["classes"] == [0]
    assert {s.class_name for s in contents.known_samples(RunDirectory.open(once))} == listed - {names["0"]}
    assert main(["evaluate", str(once)]) == 0


def test_more_of_a_live_class_is_the_same_class_and_its_name_takes_all_of_it(shared, capsys):
    names = results(shared)["class_names"]
    assert main(["learn", str(shared), *CI, OTHER]) == 0
    after = results(shared)
    assert after["class_names"] == names
    assert [e["classes"] for e in after["events"][-2:]] == [[0, 1], [2, 3]]
    assert main(["forget", str(shared), "--classes", names["0"]]) == 0
    (receipt,) = receipts.read_receipts(shared)
    assert receipt["classes"]["count"] == 1
    assert receipt["samples"]["count"] == 10, "of both experiences that brought it"
    assert names["0"] not in results(shared)["class_names"].values()
    assert main(["forget", str(shared), "--classes", names["0"]]) == 0
    assert "Already forgotten" in said(capsys)


@pytest.mark.parametrize("strategy", ["SimpleCIL", "Finetune"])
def test_what_one_experience_brought_of_a_live_class_goes_alone(strategy, made, tmp_path, capsys):
    """Forgotten by the experience's name, more of the same is gone, and the class as it was before answers."""
    run = shutil.copytree(made / strategy, tmp_path / "run")
    before = results(run)
    assert main(["learn", str(run), *CI, OTHER]) == 0
    newest = results(run)["events"][-1]["name"]
    said(capsys)
    assert main(["plan-forget", str(run), "--experiences", newest]) == 0
    told = said(capsys)
    assert "no class as a whole, 10 training samples" in told
    two = [before["class_names"][c] for c in "23"]
    assert f"stays classes {two[0]} (id:2), {two[1]} (id:3) stay through task-1" in told
    assert main(["forget", str(run), "--experiences", newest]) == 0
    assert "stay through task-1" in said(capsys)
    after, (receipt,) = results(run), receipts.read_receipts(run)
    (forgotten,) = after["forget"]
    assert (forgotten["went"], forgotten["stays"]) == (10, {"2": ["task-1"], "3": ["task-1"]})
    assert (receipt["classes"]["count"], receipt["samples"]["count"]) == (0, 10)
    assert "Of what was asked for, classes id:2, id:3 stay through task-1." in receipt["residual"]
    assert after["class_names"] == before["class_names"]
    assert main(["verify", str(run)]) == 0
    assert main(["forget", str(run), "--experiences", newest]) == 0
    assert "Already forgotten" in said(capsys)


def test_what_one_experience_brought_of_one_class_is_asked_for_by_both_names(made, tmp_path, capsys):
    run = shutil.copytree(made / "SimpleCIL", tmp_path / "run")
    assert main(["learn", str(run), *CI, OTHER]) == 0
    newest, name = results(run)["events"][-1]["name"], results(run)["class_names"]["3"]
    said(capsys)
    assert main(["forget", str(run), "--cells", f"nowhere:{name}"]) == 2
    assert "begins with no experience of this run; write an experience and one of its classes" in said(capsys)
    assert main(["forget", str(run), "--cells", f"{newest}:{name}"]) == 0
    (forgotten,) = results(run)["forget"]
    assert (forgotten["went"], forgotten["stays"]) == (5, {"3": ["task-1"]})
    listed = [s for s in contents.known_samples(RunDirectory.open(run)) if s.class_name == name and s.split == "train"]
    assert [s.experience for s in listed] == ["task-1"] * 5
    assert main(["verify", str(run)]) == 0
    assert main(["forget", str(run), "--cells", f"{newest}:{name}"]) == 2
    assert f"class of experience 3 of {newest}: never learned, or already gone" in said(capsys)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A finished run of a folder whose classes have numbers for names, sorted as text."""
    root, rng = tmp_path_factory.mktemp("numbered"), torch.Generator().manual_seed(0)
    for split, n in (("train", 3), ("test", 1)):
        for name in ("0", "1", "10", "2"):
            (root / "data" / split / name).mkdir(parents=True)
            for k in range(n):
                pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=rng).numpy()
                Image.fromarray(pixels).save(root / "data" / split / name / f"{k}.png")
    args = [*CI, f"imagefolder:{root / 'data'}", "--model.strategy", "SimpleCIL", "--model.unlearner", "DropAdapter"]
    assert main(["run", *args, "--run_dir", str(root / "run")]) == 0
    return root / "run"


def test_hints_and_words_mean_names_and_ids_are_told_apart(numbered, tmp_path, capsys):
    run = shutil.copytree(numbered, tmp_path / "a run")
    assert main(["forget", str(run), "--classes", "3"]) == 2
    assert "No class is called '3', and classes here have numbers for names; write id:3 for 2 (id:3)" in said(capsys)
    assert main(["forget", str(run), "--classes", "id:2"]) == 0
    assert results(run)["events"][-1]["classes"] == [2], "which is called 10"
    assert main(["forget", str(run), "--classes", "10"]) == 0
    assert "Already forgotten: class 10 (id:2); receipts.jsonl line 1" in said(capsys)
    assert main(["forget", str(run), "--classes", "2"]) == 0
    assert results(run)["class_names"] == {"0": "0", "1": "1", "2": "(forgotten)", "3": "(forgotten)"}
    assert main(["forget", str(run), "--classes", "0"]) == 0
    (hint,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next ")][-1:]
    assert shlex.split(hint)[1:] == ["clf", "forget", str(run), "--classes", "1"]
    assert main(shlex.split(hint)[2:]) == 0
    assert results(run)["events"][-1]["classes"] == [1]


def test_a_forgotten_class_is_still_known_by_its_name_when_its_pictures_are_gone(numbered, tmp_path, capsys):
    data = shutil.copytree(numbered.parent / "data", tmp_path / "data")
    run = tmp_path / "run"
    args = [*CI, f"imagefolder:{data}", "--model.strategy", "SimpleCIL", "--model.unlearner", "DropAdapter"]
    assert main(["run", *args, "--run_dir", str(run)]) == 0
    assert main(["forget", str(run), "--classes", "10"]) == 0
    for split in ("train", "test"):
        shutil.rmtree(data / split / "10")
    assert main(["forget", str(run), "--classes", "10"]) == 0
    assert "Already forgotten: class 10 (id:2); receipts.jsonl line 1" in said(capsys)


def test_what_would_be_done_speaks_of_classes_by_name_and_id(shared, capsys):
    names = results(shared)["class_names"]
    assert main(["plan-forget", str(shared), "--classes", names["1"], "--all"]) == 0
    assert f"{names['1']} (id:1)" in said(capsys)
    assert main(["plan-forget", str(shared), "--classes", names["1"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["classes"], told["class_names"]) == ([1], names)


def test_a_name_of_several_live_classes_is_refused_with_their_ids():
    with pytest.raises(UserError, match=r"'cat' is the name of 2 classes: id:1 and id:4; write which"):
        class_ids(["cat"], ["dog", "cat", "fox", "elk", "cat"], alive=[0, 1, 4])
    assert class_ids(["id:4"], ["dog", "cat", "fox", "elk", "cat"], alive=[0, 1, 4]) == [4]
    assert as_typed(4, ["dog", "cat", "fox", "elk", "cat"], alive=[0, 1, 4]) == "id:4"

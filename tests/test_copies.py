"""What has the content of forgotten samples and stays is named before anything is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cl_framework.cli.main import main
from cl_framework.runs import contents
from cl_framework.runs.copies import copies
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.sample_list import ListedSample

NAMES = ("ant", "bee", "cow")


def sample(i: int, digest: str, split: str = "train", place: str = "") -> ListedSample:
    return ListedSample(0, split, i, place, "ant", "task-0", {}, digest)


def test_only_what_stays_beside_what_goes_is_told():
    listed = [sample(i, d) for i, d in enumerate("aabcc")] + [sample(i, d, "test") for i, d in enumerate("bxa")]
    found = copies(listed, [0, 2, 3, 4], [0])
    assert [(s.split, s.id) for s in found.stay] == [("train", 1), ("test", 2)]
    assert [(one.id, other.id) for one, other in found.both] == [(2, 0)]
    assert copies(listed, [3, 4], []).told == []
    assert copies([sample(0, ""), sample(1, "")], [0], []).told == []  # no hash is no content
    many = copies([sample(i, "a", place=f"ant/{i}.png") for i in range(9)], [0], [])
    assert many.told == [
        "8 samples that stay have the same content as ones that go: ant/1.png (ant), ant/2.png (ant), ant/3.png (ant), "
        "ant/4.png (ant), ant/5.png (ant), ... (8)."
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run; ant/0 is also under bee and among the tests of ant, cow/0 is there twice."""
    data = tmp_path / "data"
    for i, name in enumerate(NAMES):
        for split, count in (("train", 3), ("test", 2)):
            (data / split / name).mkdir(parents=True)
            for j in range(count):
                colour = (80 * i, 255 - 60 * i, 30 * j + (split == "test"))
                Image.new("RGB", (16, 16), colour).save(data / split / name / f"{j}.png")
    shutil.copy(data / "train/ant/0.png", data / "train/bee/9.png")
    shutil.copy(data / "train/ant/0.png", data / "test/ant/9.png")
    shutil.copy(data / "train/cow/0.png", data / "train/cow/9.png")
    config = ["--model.strategy", "SimpleCIL", "--model.unlearner", "DropAdapter", "--data.scenario",
              "ClassIncremental", "--data.scenario.dataset", f"imagefolder:{data}", "--data.scenario.increment", "1",
              "--data.scenario.order_seed", "null"]  # fmt: skip
    assert main(["run", *config, "--run_dir", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


STAYS = "1 sample that stays has the same content as one that goes: "


def test_they_are_named_by_plan_forget_its_json_and_forget_and_block_nothing(run, tmp_path, capsys):
    capsys.readouterr()
    assert main(["plan-forget", str(run), "--classes", "ant"]) == 0
    said = capsys.readouterr().out
    assert f"{STAYS}train/bee/9.png (bee)." in said
    assert (
        "1 sample that goes is in training and test alike, where accuracy measured memory: "
        "train/ant/0.png (ant) = test/ant/9.png of the test split (ant)."
    ) in said
    assert main(["plan-forget", str(run), "--classes", "ant", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (other,) = told["copies_that_stay"]
    assert (other["place"], other["class"], other["split"]) == ("train/bee/9.png", "bee", "train")
    assert len(told["in_training_and_test"]) == 1

    ids = {s.place: s.id for s in contents.known_samples(RunDirectory.open(run))}
    (tmp_path / "ids.txt").write_text(str(ids["train/cow/9.png"]))
    assert main(["forget", str(run), "--samples", str(tmp_path / "ids.txt")]) == 0
    said = capsys.readouterr().out
    assert f"{STAYS}train/cow/0.png (cow)." in said
    assert said.index(STAYS) < said.index("forget-0")  # before the work
    assert main(["forget", str(run), "--classes", "cow"]) == 0
    assert STAYS not in capsys.readouterr().out  # what went before is no copy that stays
    assert b"train/cow/9.png" not in b"".join(p.read_bytes() for p in run.rglob("*") if p.is_file())

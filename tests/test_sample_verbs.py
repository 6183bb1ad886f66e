"""`clf list samples`, and samples named by path, pattern and column in `clf forget` and `clf plan-forget`."""

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from cl_framework.cli.main import main
from cl_framework.runs import receipts
from scenarios.data.glyphs import load

NAMES, TRAIN, TEST = ("ant", "bee", "cow"), 4, 2
USERS = ("alice-unmistakable", "bob-unmistakable")
SETTINGS = [
    "--data.scenario", "ClassIncremental", "--data.scenario.increment", "1", "--data.scenario.order_seed", "null",
    "--trainer.max_epochs", "1", "--model.strategy", "SimpleCIL", "--model.unlearner", "DropAdapter",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table of pictures with a column for their owner, and a finished run on it."""
    root = tmp_path_factory.mktemp("pets")
    lines = ["file,label,split,user"]
    source = load(len(NAMES), TRAIN, TEST)
    for part, n in ((source.train, TRAIN), (source.test, TEST)):
        for c, name in enumerate(NAMES):
            for j, picture in enumerate(part.images[part.labels == c][:n]):
                place = f"{part.split}/{name}/odd-{j}.png"
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.movedim(0, -1).expand(-1, -1, 3).numpy()).save(root / place)
                lines.append(f"{place},{name},{part.split},{USERS[j % 2] if part.split == 'train' else 'examiner'}")
    (root / "pets.csv").write_text("\n".join(lines))
    args = ["--data.scenario.dataset", f"csv:{root / 'pets.csv'}", "--run_dir", str(root / "run")]
    assert main(["run", *SETTINGS, *args]) == 0
    return root


@pytest.fixture
def run(made, tmp_path):
    return str(shutil.copytree(made / "run", tmp_path / "run"))


def listed(run, capsys, *more):
    capsys.readouterr()
    assert main(["list", "samples", run, *more, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def texts(run):
    return b"\0".join(p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file())


def test_samples_are_listed_with_all_that_names_them(run, capsys):
    found = listed(run, capsys)
    assert len(found) == len(NAMES) * TRAIN
    one = found[TRAIN + 1]
    assert one == {
        "id": TRAIN + 1, "place": "train/bee/odd-1.png", "class": "bee", "experience": "task-1",
        "columns": {"user": USERS[1]}, "sha256": one["sha256"],
    }  # fmt: skip
    assert main(["list", "samples", run, "--classes", "cow", "bee", "--where", f"user={USERS[0]}"]) == 0
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()] == [
        ["id", "place", "class", "experience", "user"],
        *(
            [str(i), f"train/{name}/odd-{j}.png", name, f"task-{c}", USERS[0]]
            for i, c, name, j in ((4, 1, "bee", 0), (6, 1, "bee", 2), (8, 2, "cow", 0), (10, 2, "cow", 2))
        ),
    ]
    assert shown.err == "4 samples\n"
    assert [s["class"] for s in listed(run, capsys, "--experiences", "task-2")] == ["cow"] * TRAIN
    assert main(["list", "samples", run, "--classes", "cw"]) == 2
    assert "No sample of class 'cw' is there. Did you mean 'cow'?" in capsys.readouterr().err


def test_listing_and_a_misspelt_sample_import_no_torch(run):
    code = f"""
import sys
from cl_framework.cli.main import main
codes = [main(line) for line in (["list", "samples", {run!r}], ["forget", {run!r}, "--samples", "nowhere.txt"],
         ["plan-forget", {run!r}, "--where", "usr=alice"], ["list", "samples", "--help"])]
heavy = set(("torch", "numpy", "rich.console")) & set(sys.modules)
sys.exit(", ".join(heavy) or str(codes).replace("[0, 2, 2, 0]", "") or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = f"'nowhere.txt' is no file, id, name or pattern of a sample; `clf list samples {run}` lists them"
    assert wanted in done.stderr
    assert "has a column 'usr'. Did you mean 'user'?" in done.stderr


@pytest.mark.parametrize("whole", [["--classes", "bee"], ["--experiences", "task-1"]])
def test_a_condition_beside_whole_classes_or_experiences_is_refused(run, whole, capsys):
    for verb in ("plan-forget", "forget"):
        assert main([verb, run, *whole, "--where", f"user={USERS[0]}"]) == 2
        message = f"could narrow {whole[1]!r} down or be asked for as well: for both make two requests"
        assert message in capsys.readouterr().err
    assert len(listed(run, capsys)) == len(NAMES) * TRAIN


def test_samples_are_forgotten_by_path_name_and_pattern_once(run, made, capsys, monkeypatch, tmp_path):
    words = ["train/ant/odd-1.png", str(made / "train/bee/odd-0.png"), "cow/odd-[23].png"]
    words[2] = f"train/{words[2]}"
    assert main(["plan-forget", run, "--samples", *words, "--json", "--ids"]) == 0
    capsys.readouterr()
    assert main(["forget", run, "--samples", *words]) == 0
    assert "4 samples of classes that stay" in capsys.readouterr().out
    assert [s["id"] for s in listed(run, capsys)] == [0, 2, 3, 5, 6, 7, 8, 9]
    (receipt,) = receipts.read_receipts(tmp_path / "run")
    assert receipt["samples"]["count"] == 4
    assert b"train/ant/odd-1.png" not in texts(tmp_path / "run")
    assert main(["verify", run]) == 0
    monkeypatch.chdir(made / "train")
    assert main(["forget", run, "--samples", "ant/odd-1.png", "4"]) == 0
    assert "Already forgotten: samples 1, 4; receipts.jsonl line 1" in capsys.readouterr().out
    assert len(receipts.read_receipts(tmp_path / "run")) == 1


def test_all_rows_of_a_person_are_forgotten_by_a_column(run, tmp_path, capsys):
    assert main(["forget", run, "--where", f"user={USERS[0]}"]) == 0
    assert {s["columns"]["user"] for s in listed(run, capsys)} == {USERS[1]}
    assert USERS[0].encode() not in texts(tmp_path / "run")
    assert main(["forget", run, "--where", f"user={USERS[0]}"]) == 2
    assert main(["forget", run, "--where", "user=", "--samples", "0"]) == 2


def test_one_request_serves_several_people_and_keeps_hashes_of_them_alone(run, tmp_path, capsys):
    asked = tmp_path / "asked.csv"
    asked.write_text(
        f"requester,sample\n{USERS[0]},train/ant/odd-0.png\n{USERS[1]},7\n{USERS[0]},train/cow/odd-*.png\n"
    )
    assert main(["forget", run, "--samples", str(asked), "--requester", "clerk-unmistakable"]) == 0
    (receipt,) = receipts.read_receipts(tmp_path / "run")
    key = receipts.run_key(tmp_path / "run")
    told = {one["requester"]: one["samples"] for one in receipt["requesters"]}
    assert told == {
        receipts.keyed_digest(key, "requester", name): {"count": len(ids), "keyed": receipts.keyed(key, "sample", ids)}
        for name, ids in ((USERS[0], [0, 8, 9, 10, 11]), (USERS[1], [7]))
    }
    assert not any(name.encode() in json.dumps(receipt).encode() for name in (*USERS, "clerk"))
    assert main(["verify", run]) == 0


def test_samples_learned_later_are_named_alike(run, made, tmp_path, capsys):
    more = tmp_path / "more"
    for split, n in (("train", 3), ("test", 1)):
        for j in range(n):
            (more / split / "dot").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (80 * j, 200, 10 + n)).save(more / split / "dot" / f"{j}.png")
    scenario = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", f"imagefolder:{more}"]
    scenario += ["--data.scenario.increment", "1"]
    assert main(["learn", run, *scenario]) == 0
    assert main(["forget", run, "--samples", str(more / "train" / "dot" / "1.png")]) == 0
    left = listed(run, capsys, "--classes", "dot")
    assert [s["place"] for s in left] == ["train/dot/0.png", "train/dot/2.png"]
    assert main(["forget", run, "--samples", str(left[1]["id"])]) == 0
    assert len(listed(run, capsys, "--classes", "dot")) == 1


def test_a_run_without_a_list_says_so(made, tmp_path, capsys):
    run = tmp_path / "old"
    shutil.copytree(made / "run", run)
    from cl_framework.runs.directory import RunDirectory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "samples", lambda self: None)
        assert main(["list", "samples", str(run)]) == 2
        assert "keeps no list of its samples" in capsys.readouterr().err

"""Before a run: all files are looked at, all that cannot be read is named at once, failed starts leave nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl_framework.cli.main import main
from cl_framework.runs import maintenance, receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.streams.events import Experience
from cl_framework.streams.survey import unwatched
from scenarios.class_incremental import ClassIncremental
from scenarios.forget_sequence import ForgetSequence
from scenarios.pictures.transforms import Plain

FAST = ["--config", "configs/quickstart.yaml", "--model.strategy", "SimpleCIL", "--data.scenario", "ClassIncremental"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Classes ant, bee and cow with 5 pictures to learn from and 2 to be examined on."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        for split, n in (("train", 5), ("test", 2)):
            for i in range(n):
                file = tmp_path / "data" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    return tmp_path / "data"


def broken(pictures: Path) -> list[Path]:
    """Break pictures in four ways."""
    files = [pictures / "train" / "ant" / "1.png", pictures / "train" / "cow" / "0.png",
             pictures / "test" / "bee" / "1.png", pictures / "train" / "bee" / "4.png"]  # fmt: skip
    whole = files[0].read_bytes()
    for file, content in zip(files, (b"", b"no picture", whole[: len(whole) // 2], whole[:20]), strict=True):
        file.write_bytes(content)
    return files


def command(verb: str, pictures: Path, *more: str) -> list[str]:
    stream = ["--data.scenario.dataset", f"imagefolder:{pictures}", "--data.scenario.increment", "1"]
    return [verb, *(FAST if verb != "learn" else []), *stream, *more]


def test_a_run_names_all_files_that_cannot_be_read_and_leaves_no_directory(pictures: Path, tmp_path: Path, capsys):
    files = broken(pictures)
    for verb in ("plan", "run"):
        assert main(command(verb, pictures, "--run_dir", str(tmp_path / "run"))) == 2
        told = capsys.readouterr().err
        assert "4 samples cannot be read; fix them, or leave them out (--skip_unreadable):" in told
        assert all(str(file) in told for file in files)
        assert not (tmp_path / "run").exists()


def test_a_run_goes_on_without_them_if_asked_and_so_does_all_that_follows(pictures: Path, tmp_path: Path, capsys):
    files, run = broken(pictures), tmp_path / "run"
    assert main(command("run", pictures, "--run_dir", str(run), "--skip_unreadable")) == 0
    told = capsys.readouterr().out
    assert "Left out 4 samples that cannot be read:" in told
    assert all(str(file) in told for file in files)
    assert main(["evaluate", str(run)]) == 0
    assert main(["forget", str(run), "--classes", "bee"]) == 0
    assert main(["evaluate", str(run)]) == 0


def test_learning_more_looks_at_the_new_files_too(pictures: Path, tmp_path: Path, capsys):
    run, more = tmp_path / "run", tmp_path / "more"
    assert main(command("run", pictures, "--run_dir", str(run))) == 0
    for name in ("ant", "bee", "cow"):
        for split in ("train", "test"):
            shutil.copytree(pictures / split / name, more / split / f"new {name}")
    file = more / "train" / "new ant" / "1.png"
    file.write_bytes(b"")
    ask = ["learn", str(run), "--data.scenario", "ClassIncremental", *command("learn", more)[1:]]
    before = sorted(run.rglob("*"))
    capsys.readouterr()
    assert main(ask) == 2
    assert f"Cannot read the image {file}" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
    assert main([*ask, "--skip_unreadable"]) == 0
    assert main(["evaluate", str(run)]) == 0


def test_what_is_left_out_is_neither_learned_nor_examined(pictures: Path):
    broken(pictures)
    inner = ClassIncremental(f"imagefolder:{pictures}", increment=1, order_seed=None, transform=Plain(8))
    stream = ForgetSequence(inner, 1, 1)
    assert len(stream.survey(unwatched).unreadable) == 4
    stream.skip_unreadable()
    steps = [s for s in stream.steps() if isinstance(s.event, Experience)]
    assert [(len(s.event.data), len(s.exam)) for s in steps] == [(4, 2), (4, 1), (4, 2)]
    assert all(s.event.data[range(4)].x.isfinite().all() for s in steps)


def test_pictures_whose_range_is_wrong_are_named_before_the_run(pictures: Path, capsys):
    for name, value in (("nan", np.nan), ("below", -1.0), ("between", 1.5)):
        Image.fromarray(np.full((8, 8), value, np.float32)).save(pictures / "train" / "ant" / f"{name}.tif")
    assert main(command("plan", pictures)) == 2
    told = capsys.readouterr().err
    assert told.startswith("clf: 3 samples cannot be read;")
    assert all(f"{name}.tif (it" in told for name in ("nan", "below", "between"))


def test_a_table_of_which_nothing_can_be_read_offers_no_skipping(tmp_path: Path, capsys):
    (tmp_path / "t.csv").write_text("path,label\nx.png,a\ny.png,b\n")
    assert main(["plan", *FAST, "--data.scenario.dataset", f"csv:{tmp_path / 't.csv'}"]) == 2
    told = capsys.readouterr().err
    assert "holds no samples; add some. 2 samples cannot be read:" in told
    assert "skip_unreadable" not in told


def test_a_class_of_which_nothing_can_be_read_is_refused(pictures: Path, tmp_path: Path, capsys):
    for file in (pictures / "train" / "cow").iterdir():
        file.write_bytes(b"")
    assert main(command("run", pictures, "--run_dir", str(tmp_path / "run"), "--skip_unreadable")) == 2
    told = capsys.readouterr().err
    assert "Class 'cow'" in told
    assert str(pictures / "train" / "cow" / "0.png") in told
    assert not (tmp_path / "run").exists()


# --- starts that fail -----------------------------------------------------------------------------------------------


def test_a_first_event_that_fails_leaves_no_directory(pictures: Path, tmp_path: Path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("cl_framework.engine.loop.carry_out", lambda *a: (_ for _ in ()).throw(OSError(5, "no luck")))
        assert main(command("run", pictures, "--run_dir", str(run))) == 2
    assert not run.exists()
    assert main(command("run", pictures, "--run_dir", str(run))) == 0


def test_a_run_that_was_killed_before_its_first_event_is_begun_anew_by_the_same_command(tmp_path: Path):
    run = RunDirectory.create(tmp_path / "run", "a: 1\n", {"seed": 1})
    (run.path / "events" / ".tmp-0").mkdir(parents=True)
    (run.path / "logs").mkdir()
    (run.path / "logs" / "of-a-trainer.csv").write_text("kept")
    again = RunDirectory.create(tmp_path / "run", "b: 2\n", {"seed": 2})
    assert (again.config, again.manifest.seed, again.verify()) == ("b: 2\n", 2, [])
    assert receipts.run_key(again.path)
    assert (run.path / "logs" / "of-a-trainer.csv").read_text() == "kept"


def test_a_run_with_an_event_or_notes_is_never_taken_away(tmp_path: Path):
    run = RunDirectory.create(tmp_path / "run", "a: 1\n", {})
    (run.path / "notes.txt").write_text("mine")
    maintenance.discard(run.path)
    assert (run.path / "notes.txt").exists()
    assert run.config == "a: 1\n"
    (run.path / "notes.txt").unlink()
    run.commit("task-0", "learn", {}, {}, {})
    maintenance.discard(run.path)
    assert len(RunDirectory.open(run.path).events()) == 1

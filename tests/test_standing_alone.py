"""A run needs its config, weights and state: not the data it learned from, not the directory that it was made in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cl_framework.cli.main import main
from cl_framework.errors import UserError
from cl_framework.runs import contents, relocation
from cl_framework.runs.directory import RunDirectory
from cl_framework.storage.files import file_hash
from cl_framework.streams import sample_list, sample_list_file
from scenarios.class_incremental import ClassIncremental
from scenarios.data.glyphs import load
from scenarios.pictures.picture_cache import cache_folder, row_mark

NAMES = ("ant-unmistakable", "bee-unmistakable", "cow-unmistakable")
TRAIN, TEST = 4, 2


def save(picture: torch.Tensor, path: Path) -> None:
    """Save ``(3, H, W)`` uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.movedim(0, -1).numpy()).save(path)


@pytest.fixture(scope="session")
def glyphs():
    """Characters that the backbone tells apart."""
    return load(len(NAMES) + 1, TRAIN + 1, TEST)


def begun(where: Path, dataset: str, *more: str, strategy: str = "SimpleCIL", unlearner: str = "DropAdapter") -> int:
    scenario = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", dataset]
    settings = ["--data.scenario.increment", "1", "--data.scenario.order_seed", "null", "--trainer.max_epochs", "1"]
    model = ["--model.strategy", strategy, "--model.unlearner", unlearner]
    return main(["run", *scenario, *settings, *model, *more, "--run_dir", str(where)])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def made(home, glyphs, tmp_path_factory):
    """A folder per class and split and a run that learned from it, made once; copies go to where they were made."""
    for part, n in ((glyphs.train, TRAIN), (glyphs.test, TEST)):
        for c, name in enumerate(NAMES):
            for j, picture in enumerate(part.images[part.labels == c][:n]):
                save(picture, home / "pets" / part.split / name / f"unmistakable-{j}.png")
    assert begun(home / "run", f"imagefolder:{home / 'pets'}") == 0
    return shutil.copytree(home, tmp_path_factory.mktemp("made") / "home")


@pytest.fixture
def tmp_path(home, made):
    """The same place for each test, so that paths in copied runs hold."""
    shutil.rmtree(home)
    home.mkdir()
    return home


@pytest.fixture
def pets(tmp_path, made):
    return shutil.copytree(made / "pets", tmp_path / "pets")


@pytest.fixture
def run(pets, tmp_path, made):
    return shutil.copytree(made / "run", tmp_path / "run")


def texts(run: Path) -> bytes:
    return b"\0".join(p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file())


def predicted(run: Path, picture: Path, capsys) -> str:
    capsys.readouterr()
    assert main(["predict", str(run), str(picture), "--top", "1"]) == 0
    return capsys.readouterr().out


def test_every_sample_is_listed_with_place_class_experience_and_hash(run, pets):
    found = contents.known_samples(RunDirectory.open(run))
    assert len(found) == len(NAMES) * (TRAIN + TEST)
    one = found[TRAIN + 1]
    assert (one.source, one.split, one.id, one.columns) == (0, "train", TRAIN + 1, {})
    assert (one.place, one.class_name, one.experience) == (f"train/{NAMES[1]}/unmistakable-1.png", NAMES[1], "task-1")
    assert one.digest == file_hash(pets / one.place)
    assert {s.experience for s in found if s.split == "test"} == {"task-0", "task-1", "task-2"}


def test_added_and_deleted_pictures_stop_no_verb(run, pets, glyphs, tmp_path, capsys):
    shutil.copy(pets / "test" / NAMES[2] / "unmistakable-0.png", tmp_path / "cow.png")
    save(glyphs.train.images[-1], pets / "train" / "aardvark" / "0.png")
    save(glyphs.train.images[TRAIN], pets / "train" / NAMES[0] / "added.png")
    (pets / "train" / NAMES[0] / "unmistakable-0.png").unlink()
    assert NAMES[2] in predicted(run, tmp_path / "cow.png", capsys)
    assert main(["evaluate", str(run)]) == 0
    assert main(["forget", str(run), "--classes", NAMES[1]]) == 0
    assert main(["resume", str(run)]) == 0
    assert main(["verify", str(run)]) == 0


def test_without_any_data_a_run_predicts_verifies_and_forgets(run, pets, tmp_path, capsys):
    shutil.copy(pets / "test" / NAMES[2] / "unmistakable-0.png", tmp_path / "cow.png")
    shutil.rmtree(pets)
    assert NAMES[2] in predicted(run, tmp_path / "cow.png", capsys)
    assert main(["forget", str(run), "--classes", NAMES[2], "--without", "forget"]) == 0
    assert NAMES[2] not in predicted(run, tmp_path / "cow.png", capsys)
    assert main(["verify", str(run)]) == 0
    assert main(["plan-forget", str(run), "--classes", NAMES[0]]) == 0
    assert main(["evaluate", str(run)]) == 2


def test_examining_goes_on_without_some_test_pictures_and_names_them(run, pets, capsys):
    gone = pets / "test" / NAMES[0] / "unmistakable-1.png"
    gone.unlink()
    told = _evaluated(run, capsys)
    assert f"1 of {len(NAMES) * TEST} test samples are gone: nothing is compared with the record. Gone: {gone}" in told


def test_an_audit_says_what_it_cannot_ask_about_any_more(run, pets, capsys):
    forgotten = sorted((pets / "train" / NAMES[0]).iterdir())
    assert main(["forget", str(run), "--classes", NAMES[0]]) == 0
    forgotten[1].unlink()
    assert main(["audit", str(run)]) == 2
    said = capsys.readouterr().err
    assert "would learn from samples that are gone (sample 1, 1 in all)" in said
    assert "--without" not in said, "which is no option of an audit"
    assert main(["audit", str(run), "--fast", "--no-relearn"]) == 0
    assert "1 of the samples to ask the model about are gone" in capsys.readouterr().out
    shutil.rmtree(pets / "train" / NAMES[0])
    assert main(["audit", str(run), "--fast"]) == 2
    assert "All that was forgotten is gone (sample 0, sample 1, sample 2, ...)" in capsys.readouterr().err


def _evaluated(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("before", [True, False])
def test_pictures_of_a_forgotten_class_may_be_deleted_before_or_after(run, pets, before):
    def delete():
        for split in ("train", "test"):
            shutil.rmtree(pets / split / NAMES[1])

    if before:
        delete()
    without = ["--without", "forget"] if before else []
    assert main(["forget", str(run), "--classes", NAMES[1], *without]) == 0
    if not before:
        delete()
    assert main(["evaluate", str(run)]) == 0
    assert main(["forget", str(run), "--classes", NAMES[0]]) == 0
    assert main(["verify", str(run)]) == 0


def test_a_request_takes_its_samples_out_of_the_list(run, pets, tmp_path):
    (tmp_path / "ids.txt").write_text(f"{2 * TRAIN}")
    one = f"train/{NAMES[2]}/unmistakable-0.png"
    assert one.encode() in texts(run)
    assert main(["forget", str(run), "--samples", str(tmp_path / "ids.txt")]) == 0
    assert one.encode() not in texts(run)
    digests = [s.digest for s in contents.known_samples(RunDirectory.open(run)) if s.class_name == NAMES[1]]
    assert main(["forget", str(run), "--classes", NAMES[1]]) == 0
    told = texts(run)
    assert not [d for d in digests if d.encode() in told]
    assert NAMES[1].encode() not in told
    found = contents.known_samples(RunDirectory.open(run))
    assert [s.id for s in found if s.split == "train"] == [*range(TRAIN), *range(2 * TRAIN + 1, 3 * TRAIN)]
    assert main(["evaluate", str(run)]) == 0


def test_another_working_directory_finds_the_same_data(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert begun(tmp_path / "run", "imagefolder:pets") == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_two_pictures_that_were_swapped_are_noticed_when_they_are_read(run, pets, capsys):
    a, b = (pets / "test" / name / "unmistakable-0.png" for name in NAMES[:2])
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert main(["evaluate", str(run)]) == 2
    assert "differs from the picture that the run read; restore the earlier one." in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["SimpleCIL", "EASE"])
def test_a_picture_that_was_replaced_can_be_forgotten_and_is_named_where_it_stays(strategy, pets, tmp_path, capsys):
    assert begun(tmp_path / "run", f"imagefolder:{pets}", strategy=strategy) == 0
    a, b = (pets / "train" / name / "unmistakable-0.png" for name in NAMES[:2])
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    if strategy == "EASE":  # which trains again what stays of an experience
        assert main(["forget", str(tmp_path / "run"), "--samples", "1"]) == 2
        assert f"reads samples that stay and are gone or changed: {a};" in " ".join(capsys.readouterr().err.split())
    for picture in (a, b):
        assert main(["forget", str(tmp_path / "run"), "--samples", str(picture), "--without", "forget"]) == 0
    assert not {0, TRAIN} & {
        s.id for s in contents.known_samples(RunDirectory.open(tmp_path / "run")) if s.split == "train"
    }
    assert main(["verify", str(tmp_path / "run")]) == 0


def test_rows_of_a_table_keep_their_ids_and_columns(tmp_path):
    table = tmp_path / "said.csv"
    lines = ["text,label,user", *(f"hello {i},{'ab'[i % 2]},u{i}" for i in range(20))]
    table.write_text("\n".join(lines))
    stream = ClassIncremental(f"csv:{table}", increment=1, order_seed=None)
    told = stream.listing(lambda done, total: None)
    again = sample_list_file.decode_list(sample_list_file.encode_list([told]))[0]
    assert again == told
    table.write_text("\n".join([lines[0], "new line,a,u99", *lines[3:]]))  # one is new, two are gone
    later = ClassIncremental(f"csv:{table}", increment=1, order_seed=None)
    later.relist(again, None)
    (first, second), (old, other) = (list(s.steps()) for s in (later, stream))
    assert first.event.data.ids.tolist() == old.event.data.ids.tolist()
    places = {s.place: s.columns for s in sample_list.listed_samples([again])}
    assert places["said.csv, line 3"] == {"user": "u1"}
    lost = 0
    for step, before in ((first, old), (second, other)):
        for now, then in ((step.event.data, before.event.data), (step.exam, before.exam)):
            there = now.present(range(len(now)))
            rows, gone = there.nonzero()[:, 0].tolist(), (~there).nonzero()[:, 0].tolist()
            assert torch.equal(now[rows].x, then[rows].x)
            lost += len(gone)
            if gone:
                with pytest.raises(UserError, match="is gone"):
                    now[gone]
    assert lost == 2


def test_a_list_that_was_edited_is_refused(run):
    (file,) = (run / "samples").iterdir()
    told = json.loads(file.read_bytes())
    told["sources"][0]["train"]["places"].pop()
    with pytest.raises(UserError, match="differ in length"):
        sample_list_file.decode_list(json.dumps(told).encode())
    file.write_bytes(json.dumps(told).encode())
    assert any("samples" in problem for problem in RunDirectory.open(run).verify())


def cut_short(where: Path, dataset: str, monkeypatch, **more: str) -> None:
    """Begin a run that is stopped while its second event is recorded."""
    commit = RunDirectory.commit

    def stopped(run, name, *args, **options):
        if name == "task-1":
            raise KeyboardInterrupt
        return commit(run, name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "commit", stopped)
        assert begun(where, dataset, **more) != 0
    assert [e.name for e in RunDirectory.open(where).events()] == ["task-0"]


def test_resume_goes_on_with_what_is_there_and_says_what_is_not(pets, glyphs, tmp_path, monkeypatch, capsys):
    cut_short(tmp_path / "run", f"imagefolder:{pets}", monkeypatch)
    (pets / "train" / NAMES[0] / "unmistakable-1.png").unlink()  # was met
    (pets / "train" / NAMES[1] / "unmistakable-1.png").unlink()  # was not
    mended = pets / "train" / NAMES[1] / "unmistakable-2.png"
    save(glyphs.train.images[glyphs.train.labels == 1][-1], mended)
    save(glyphs.train.images[0], pets / "train" / NAMES[1] / "added.png")
    for split in ("train", "test"):
        shutil.rmtree(pets / split / NAMES[2])
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "1 sample is new and left out, for a run keeps to its list" in said
    assert f"(`clf learn` takes more in): train/{NAMES[1]}/added.png" in said
    assert f"7 samples are gone and never learned: left out: train/{NAMES[1]}/unmistakable-1.png" in said
    assert f"1 sample is changed and never learned: taken as now: train/{NAMES[1]}/unmistakable-2.png" in said
    assert f"1 sample is gone, and learned before: not read again: train/{NAMES[0]}/unmistakable-1.png" in said
    found = [s for s in contents.known_samples(RunDirectory.open(tmp_path / "run")) if s.split == "train"]
    assert [s.id for s in found] == [0, 1, 2, 3, TRAIN, TRAIN + 2, TRAIN + 3]
    assert next(s for s in found if s.id == TRAIN + 2).digest == file_hash(mended)
    assert [e.name for e in RunDirectory.open(tmp_path / "run").events()] == ["task-0", "task-1"]
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["verify", str(tmp_path / "run")]) == 0


def test_what_is_trained_anew_goes_on_without_pictures_that_are_gone(pets, glyphs, tmp_path):
    assert begun(tmp_path / "run", f"imagefolder:{pets}", strategy="Joint", unlearner="Retrain") == 0
    gone = pets / "train" / NAMES[0] / "unmistakable-1.png"
    gone.unlink()
    for j, picture in enumerate(glyphs.train.images[-TRAIN:]):
        save(picture, tmp_path / "more" / ("train" if j else "test") / "dog" / f"{j}.png")
    more = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", f"imagefolder:{tmp_path / 'more'}"]
    assert main(["learn", str(tmp_path / "run"), *more, "--data.scenario.increment", "1"]) == 0
    last = contents.known_samples(RunDirectory.open(tmp_path / "run"))[-1]
    assert (last.source, last.id, last.class_name) == (1, 3 * TRAIN, "dog")


def test_retrain_names_what_it_needs_and_is_missing(pets, tmp_path, capsys):
    assert begun(tmp_path / "run", f"imagefolder:{pets}", strategy="Joint", unlearner="Retrain") == 0
    gone = [pets / "train" / NAMES[0] / f"unmistakable-{j}.png" for j in (1, 2)]
    for picture in gone:
        picture.unlink()
    assert main(["forget", str(tmp_path / "run"), "--classes", NAMES[1]]) == 2
    said = capsys.readouterr().err
    assert all(str(picture) in said for picture in gone)
    assert "Retrain" in said
    (tmp_path / "ids.txt").write_text("1 2")
    args = ["--classes", NAMES[1], "--samples", str(tmp_path / "ids.txt"), "--without", "forget"]
    assert main(["forget", str(tmp_path / "run"), *args]) == 0


def test_a_run_that_moved_together_with_its_data_finds_them(pets, tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    pets.rename(tmp_path / "old" / "pets")
    assert begun(tmp_path / "old" / "run", f"imagefolder:{tmp_path / 'old' / 'pets'}") == 0
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "new" / "run")]) == 0
    assert main(["forget", str(tmp_path / "new" / "run"), "--classes", NAMES[0]]) == 0
    assert main(["verify", str(tmp_path / "new" / "run")]) == 0


def test_relocate_says_where_data_and_weights_are_now_and_is_remembered(run, pets, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    pets.rename(tmp_path / "elsewhere" / "pets")
    assert main(["evaluate", str(run)]) == 2, "nothing was examined"
    told = f"None of the {len(NAMES) * TEST} test samples of {run} is there any more ({pets}/test/{NAMES[0]}/"
    assert told in (said := capsys.readouterr().err)
    assert "--relocate OLD=NEW" in said
    assert "--data DATA" in said
    move = f"{tmp_path / 'pets'}={tmp_path / 'elsewhere' / 'pets'}"
    assert main(["evaluate", str(run), "--relocate", move]) == 0
    assert "agrees" in capsys.readouterr().out
    assert "agrees" in _evaluated(run, capsys)
    assert main(["forget", str(run), "--classes", NAMES[0]]) == 0
    assert main(["verify", str(run)]) == 0
    raw = (run / "relocated.json").read_bytes()
    (run / "relocated.json").write_bytes(raw.replace(b"elsewhere", b"somewhere"))
    assert main(["verify", str(run)]) == 1


@pytest.mark.parametrize(
    ("move", "said"), [("here", "OLD=NEW"), ("/old=", "OLD=NEW"), ("/old=/no/where", "There is no /no/where")]
)
def test_a_move_that_makes_no_sense_is_refused(run, move, said, capsys):
    assert main(["evaluate", str(run), "--relocate", move]) == 2
    assert said in capsys.readouterr().err
    assert not (run / "relocated.json").exists()


def test_paths_of_a_config_are_rewritten_where_they_begin_alike_and_nowhere_else():
    told = {
        "weights": "/old/w.pth",
        "rest": ["csv:/old/a.csv:exam=/old/b.csv", '{"dataset": "imagefolder:/old"}', "/older"],
    }
    now = {"weights": "/n/w.pth", "rest": ["csv:/n/a.csv:exam=/n/b.csv", '{"dataset": "imagefolder:/n"}', "/older"]}
    assert relocation.rewritten(told, [("/old", "/n")]) == now


def test_what_the_cache_kept_under_an_old_path_is_erased_too(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("CLF_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    assert begun(run, f"imagefolder:{pets}") == 0
    pets.rename(tmp_path / "moved")
    assert main(["forget", str(run), "--classes", NAMES[0], "--relocate", f"{pets}={tmp_path / 'moved'}"]) == 0
    held = {int(w) for rows in cache_folder().glob("*/rows.npy") for w in np.load(rows)["whose"]}
    kept, gone = (row_mark(pets / "train" / name / "unmistakable-0.png") for name in (NAMES[1], NAMES[0]))
    assert kept in held
    assert gone not in held


def test_no_absolute_path_is_in_a_file_of_features(run, pets):
    files = [*(run / "features").iterdir()]
    assert files
    assert not [f for f in files if str(pets).encode() in f.read_bytes()]


def test_other_data_are_examined_by_name_without_the_data_of_the_run(run, pets, glyphs, tmp_path, capsys):
    other = tmp_path / "other"
    for name, c in ((NAMES[2], 2), (NAMES[0], 0), ("dog", 3)):
        for j, picture in enumerate(glyphs.train.images[glyphs.train.labels == c]):
            save(picture, other / name / f"{j}.png")
    shutil.rmtree(pets)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", f"imagefolder:{other}"]) == 0
    said = capsys.readouterr().out
    assert f"of {2 * TRAIN + 2} samples" in said
    assert float(said.split("accuracy ")[-1][:5]) > 0.6
    assert f"left out {TRAIN + 1} samples of classes that the run does not know: dog" in said
    assert main(["forget", str(run), "--classes", NAMES[2]]) == 0
    assert main(["evaluate", str(run), "--data", f"imagefolder:{other}"]) == 0
    assert NAMES[2] in capsys.readouterr().out.split("does not know: ")[1]


def test_of_other_data_with_a_test_split_only_that_is_an_exam(run, pets, tmp_path, capsys):
    pets.rename(tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "test" / NAMES[1])
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", f"imagefolder:{tmp_path / 'other'}"]) == 0
    assert f"of {2 * TEST} samples" in capsys.readouterr().out


def test_other_data_that_fit_nothing_are_refused(run, glyphs, tmp_path, capsys):
    save(glyphs.train.images[0], tmp_path / "other" / "dog" / "0.png")
    assert main(["evaluate", str(run), "--data", f"imagefolder:{tmp_path / 'other'}"]) == 2
    assert "holds no sample of a class" in capsys.readouterr().err
    (tmp_path / "said.csv").write_text(f"text,label\nhello,{NAMES[0]}\nyes,{NAMES[0]}")
    assert main(["evaluate", str(run), "--data", f"csv:{tmp_path / 'said.csv'}"]) == 2
    assert "holds sentences, and the run knows pictures" in capsys.readouterr().err


def test_what_is_forgotten_is_known_by_name_after_its_pictures_are_deleted(run, pets, capsys):
    assert main(["forget", str(run), "--classes", NAMES[1]]) == 0
    shutil.rmtree(pets)
    capsys.readouterr()
    assert main(["forget", str(run), "--classes", NAMES[1]]) == 0
    assert "Already forgotten" in capsys.readouterr().out

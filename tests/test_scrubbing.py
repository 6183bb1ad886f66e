"""After a forget request no file of the run holds what was forgotten: not a byte of it, not a name, not a sample id."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from cl_framework.cli.main import main
from cl_framework.errors import UserError
from cl_framework.runs import derived_files
from cl_framework.runs.directory import RunDirectory
from cl_framework.storage import files as storage_files
from cl_framework.streams.events import Step
from cl_framework.streams.samples import Relabelled
from cl_framework.streams.scenario import Scenario
from scenarios.class_incremental import ClassIncremental

NAMES = [f"{animal}-unmistakable" for animal in ("axolotl", "bilby", "caracal", "dugong", "echidna", "fossa")]
TRAIN, TEST = 731_000_000_000, 977_000_000_000
"""Added to the ids of training and test samples, so that none stands in a file by chance; keys hold these two alone."""


FAR = f"{__name__}.FarIds"


@pytest.fixture(scope="module", autouse=True)
def _trusted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLF_TRUST", __name__)
        yield


class FarIds(Scenario):
    """Classes in increments, their samples under ids that are unmistakable."""

    def __init__(self, dataset: str, increment: int = 2) -> None:
        self.stream = ClassIncremental(dataset, increment=increment, order_seed=None)

    @property
    def class_names(self):
        return self.stream.class_names

    def fingerprint(self):
        return self.stream.fingerprint()

    def steps(self):
        for step in self.stream.steps():
            event = step.event
            data, reference = (Relabelled(s, 0, TRAIN) for s in (event.data, event.reference))
            yield Step(dataclasses.replace(event, data=data, reference=reference), Relabelled(step.exam, 0, TEST))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder per class and split, of coloured noise."""
    root, rng = tmp_path_factory.mktemp("pictures"), torch.Generator().manual_seed(0)
    for split, n in (("train", 6), ("test", 3)):
        for i, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for j in range(n):
                x = torch.rand(8, 8, 3, generator=rng) * 127 + (128 if i % 2 else 0)
                Image.fromarray(x.byte().numpy()).save(root / split / name / f"{j}.png")
    return root


def everything(path):
    """All bytes of all files of a run."""
    return b"\0".join(p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file())


def pieces(tensors):
    """The bytes of each tensor, a matrix taken row by row, where they are unmistakable."""
    found = set()
    for t in tensors.values():
        for piece in t if t.ndim == 2 else [t]:
            raw = piece.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            if piece.is_floating_point() and len(raw) >= 32 and len(set(raw)) > 12:
                found.add(raw)
    return found


class Watch:
    """Checks at every forget event that what the state and the store let go of is in no file any more."""

    def __init__(self, monkeypatch):
        self.held, self.gone = set(), 0
        commit = RunDirectory.commit

        def watched(run, name, kind, tensors, state, metrics, features, *args):
            now = pieces(tensors) | pieces(features)
            let_go = self.held - now
            before = everything(run.path)
            event = commit(run, name, kind, tensors, state, metrics, features, *args)
            if kind == "forget":
                assert let_go
                assert any(raw in before for raw in let_go), "they were there before"
                after = everything(run.path)
                assert not any(raw in after for raw in let_go)
                self.held, self.gone = now, self.gone + len(let_go)
            else:  # learning replaces tensors too; they stay until somebody asks to forget
                self.held |= now
            return event

        monkeypatch.setattr(RunDirectory, "commit", watched)


def assert_silent(path, classes, ids):
    """No file names any of these classes or samples."""
    raw = everything(path)
    for c in classes:
        assert NAMES[c].encode() not in raw, NAMES[c]
    for i in ids:
        assert str(i).encode() not in raw, i
        assert i.to_bytes(8, "little") not in raw, i


def start(path, pictures, strategy, unlearner, requests, **trainer):
    stream = {"class_path": FAR, "init_args": {"dataset": f"imagefolder:{pictures}"}}
    config = {
        "model": {"strategy": strategy, "unlearner": unlearner, "adapter": {"class_path": "Bottleneck",
                  "init_args": {"width": 4}}},
        "data": {"scenario": {"class_path": "Mixed", "init_args": {"stream": stream, "requests": requests}}},
        "trainer": {"max_epochs": 1, **trainer},
    }  # fmt: skip
    file = path.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return main(["run", "--config", str(file), "--run_dir", str(path)])


@pytest.mark.parametrize(
    ("strategy", "unlearner"), [("SimpleCIL", "DropAdapter"), ("EASE", "DropAdapter"), ("Joint", "Retrain")]
)
def test_no_file_holds_what_was_forgotten(strategy, unlearner, pictures, tmp_path, monkeypatch):
    watch, path = Watch(monkeypatch), tmp_path / "run"
    (tmp_path / "ids.txt").write_text(f"{TRAIN + 7}\n{TRAIN + 8}\n")
    requests = [
        {"after": 1, "classes": [NAMES[0]]},
        {"after": 2, "samples": str(tmp_path / "ids.txt")},
        {"after": 2, "samples": [TRAIN + 14]},
    ]
    logs = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": str(path)}}
    assert start(path, pictures, strategy, unlearner, requests, logger=logs, log_every_n_steps=1) == 0
    assert [*path.rglob("metrics.csv")], "logs lie in the run and are read, too"
    gone = [*range(TRAIN + 1, TRAIN + 6), TRAIN + 7, TRAIN + 8, TRAIN + 14]
    assert_silent(path, [0], gone)
    assert "ids.txt" not in (path / "config.yaml").read_text()

    (tmp_path / "more.txt").write_text(f"{TRAIN + 25}, {TRAIN + 26}")
    assert main(["forget", str(path), "--samples", str(tmp_path / "more.txt")]) == 0
    assert_silent(path, [0], [*gone, TRAIN + 25, TRAIN + 26])
    assert main(["forget", str(path), "--classes", NAMES[2]]) == 0
    assert main(["forget", str(path), "--experiences", "task-2"]) == 0
    assert_silent(path, [0, 2, 4, 5], [*gone, *range(TRAIN + 12, TRAIN + 18), *range(TRAIN + 24, TRAIN + 36)])
    assert_silent(path, [], [TEST + 1, TEST + 2, *range(TEST + 6, TEST + 9), *range(TEST + 12, TEST + 18)])
    assert watch.gone > 20
    results = json.loads((path / "results.json").read_text())
    assert results["class_names"] == {"1": NAMES[1], "3": NAMES[3]} | dict.fromkeys("0245", "(forgotten)")
    assert main(["verify", str(path)]) == 0
    assert main(["evaluate", str(path)]) == 0, "hidden requests are still understood"


def test_a_stream_learned_later_is_told_without_the_names_it_forgets(pictures, tmp_path):
    path = tmp_path / "run"
    assert start(path, pictures, "SimpleCIL", "DropAdapter", [{"after": 1, "classes": [0]}]) == 0
    stream = json.dumps({"class_path": FAR, "init_args": {"dataset": f"imagefolder:{pictures}"}})
    args = ["ForgetThenRelearn", "--data.scenario.stream", stream, "--data.scenario.classes", f"[{NAMES[0]}]"]
    assert main(["learn", str(path), "--as_new", "again-", "--data.scenario", *args]) == 0
    assert main(["forget", str(path), "--classes", f"again-{NAMES[0]}"]) == 0
    assert_silent(path, [0], [])
    assert main(["evaluate", str(path)]) == 0


def test_history_can_be_dropped_altogether(pictures, tmp_path, monkeypatch):
    path = tmp_path / "run"
    assert start(path, pictures, "EASE", "DropAdapter", [{"after": 1, "classes": [0]}]) == 0
    assert main(["forget", str(path), "--classes", "3", "--history", "drop"]) == 0
    *earlier, last = RunDirectory.open(path).events()
    assert all(e.tensors == {} for e in earlier)
    assert set(last.tensors) == set(RunDirectory.open(path).state())
    assert main(["verify", str(path)]) == 0
    assert main(["evaluate", str(path)]) == 0


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A small run with everything a run can have."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert start(path, pictures, "EASE", "DropAdapter", [{"after": 1, "classes": [0]}]) == 0
    assert main(["forget", str(path), "--classes", "3"]) == 0
    storage_files.replace(path / "audit.json", b"{}\n")
    derived_files.add(path, ["audit.json"], len(RunDirectory.open(path).events()))
    assert RunDirectory.open(path).verify() == []
    return path


def test_a_flipped_byte_in_any_file_is_found_and_the_file_is_named(finished):
    files = sorted(p for p in finished.rglob("*") if p.is_file() and p.name != ".lock")
    expected = {"key", "receipts.jsonl", "outputs.json", *(Path(f).name for f in derived_files.MAY)}
    assert {p.name for p in files} >= expected
    assert len(files) > 20
    for file in files:
        data = file.read_bytes()
        for place in {0, len(data) - 1, *(len(data) * i // 7 for i in range(1, 7))}:
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            try:
                problems = RunDirectory.open(finished).verify()
            except UserError as error:
                problems = [str(error)]
            file.write_bytes(data)
            assert any(str(file) in p for p in problems), (file, place, problems)
        file.unlink()
        try:
            problems = RunDirectory.open(finished).verify()
        except UserError as error:
            problems = [str(error)]
        file.write_bytes(data)
        assert problems or file.name == "key", file
    assert RunDirectory.open(finished).verify() == []

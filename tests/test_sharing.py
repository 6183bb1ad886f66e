"""Runs find each other's features: the same numbers for fewer passes, and what one must forget is gone for all."""

import errno
import json
import os
import random
import shutil
import signal
import time
from contextlib import suppress

import pytest
import torch

from cl_framework.cli.main import main
from cl_framework.engine import checkpoint, loop
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.feature_cache.shared_directory import MOST_FILES, SharedDirectory
from cl_framework.feature_cache.sharing import SharedFeatures, contents_of, data_folder
from cl_framework.feature_cache.store import FeatureStore
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.feature_sharing import made_with
from cl_framework.runs.open_run import OpenRun
from cl_framework.streams.events import Experience, forget_request
from cl_framework.streams.samples import Joined, Relabelled, Rows
from scenarios.data.source import Pictures
from strategies.learning.ease import EASE
from strategies.learning.ranpac import RanPAC
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter

LARGE = 2**30
GLYPHS = [
    "--data.scenario", "ClassIncremental", "--data.scenario.dataset", "glyphs:classes=6,train=6,test=3",
    "--data.scenario.increment", "2", "--model.strategy", "SimpleCIL", "--model.unlearner", "DropAdapter",
    "--features", "shared",
]  # fmt: skip
forks = pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="needs processes to fork")


def rows_of(ids, width=16):
    """What the features of these samples are: told by the id."""
    return ids[:, None].double().sin().float() + torch.arange(width)


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != ".lock")


def held(directory, data="d", made="m"):
    return sorted(i for piece in directory.pieces(data, made) for i in piece.ids.tolist())


@pytest.fixture
def directory(tmp_path):
    return SharedDirectory(tmp_path / "shared-features", LARGE)


@pytest.fixture
def met(world, tmp_path):
    """Carry out events beside a shared directory; return the learner, the measurements and what it cost."""

    def met(events, strategy, made="m", store=None, among=None):
        learner, scenario = world.learner(strategy, DropAdapter()), world.Listed(events)
        learner.model.store = store or FeatureStore()
        contents = contents_of(list(world.Listed(among or events).steps()))
        learner.model.store.source = SharedFeatures(
            SharedDirectory(tmp_path / "shared-features", LARGE), made, contents
        )
        journal = world.Listener(learner)
        loop.run_stream(learner, scenario, world.make_trainer, Evaluator(), journal, 8)
        return learner, journal

    return met


def passes(journal):
    return sum(c.passes["statistics"] + c.passes["evaluate"] for c in journal.costs)


def found(journal):
    return sum(c.found for c in journal.costs)


def test_the_same_run_again_makes_no_frozen_pass_and_gets_the_same_bits(met, world, stream):
    (one, first), (two, second) = met(stream, EASE()), met(stream, EASE())
    assert world.differences(one, two) == []
    assert first.measurements == second.measurements
    assert (found(first), passes(second)) == (0, 0)
    assert found(second) == passes(first) > 0
    assert [c.found for c in second.costs] == [c.passes["statistics"] + c.passes["evaluate"] for c in first.costs]


def test_a_second_method_on_the_same_backbone_finds_the_features_of_the_first(met, world, stream):
    _, first = met(stream, SimpleCIL())
    two, second = met(stream, RanPAC(tune=False, expansion=32))
    alone, _ = met(stream, RanPAC(tune=False, expansion=32), made="other")
    assert found(second) == passes(first)
    assert passes(second) == 0
    assert world.differences(two, alone) == []


@pytest.mark.parametrize("store", ["off", "memory", "disk"])
def test_a_shelf_changes_no_number_whatever_the_store(store, met, world, stream, tmp_path):
    events = [*stream[:3], forget_request("f", stream[:3], classes=[2], samples=[7001]), stream[3]]
    make = {"off": lambda: FeatureStore(0), "memory": FeatureStore, "disk": lambda: FeatureStore(1, tmp_path)}[store]
    plain = world.learner(EASE(), DropAdapter())
    journal = world.Listener(plain)
    loop.run_stream(plain, world.Listed(events), world.make_trainer, Evaluator(), journal, 8)
    for _ in range(2):
        learner, shared = met(events, EASE(), store=make())
        assert world.differences(plain, learner) == []
        assert shared.measurements == journal.measurements
        if store != "off":
            assert passes(shared) + found(shared) == passes(journal)
    assert (found(shared) > 0) is (store != "off")


def test_features_made_otherwise_or_of_other_bytes_are_not_taken(met, world, stream):
    met(stream[:2], SimpleCIL())
    assert found(met(stream[:2], SimpleCIL(), made="bf16")[1]) == 0
    one = stream[0]
    brighter = Rows(one.reference.x + 1, one.reference.labels, one.reference.ids, one.reference.key)
    other = Experience(one.name, one.classes, one.data, brighter)
    learner, journal = met([other, stream[1]], SimpleCIL())
    assert sum(c.passes["statistics"] for c in journal.costs) == 40
    assert world.differences(learner, met([other, stream[1]], SimpleCIL(), made="alone")[0]) == []


def test_what_decides_a_feature_decides_where_it_lies():
    config = "model: {backbone: b, adapter: {scale: 1}, strategy: EASE}\ntrainer: {precision: 32, max_epochs: 3}\n"
    cpu = torch.device("cpu")

    def made(old="", new="", weights="w"):
        return made_with(config.replace(old, new), weights, cpu)

    assert made() == made("EASE", "SimpleCIL") == made("max_epochs: 3", "max_epochs: 4")
    others = [
        made("scale: 1", "scale: 2"),
        made("32", "bf16-mixed"),
        made(weights="v"),
        made("backbone: b", "backbone: c"),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # sums may be taken in another order
    others.append(made())
    torch.set_num_threads(threads)
    assert len({made(), *others}) == 6


def test_a_data_set_is_known_by_its_bytes(world, tmp_path):
    images = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8)
    one, same = (Pictures("train", images.clone(), [0, 0, 1, 1]) for _ in range(2))
    images[2, 0, 0, 0] += 1
    assert one.content == same.content != Pictures("train", images, [0, 0, 1, 1]).content
    assert one.content != one.take(torch.tensor([0, 1, 2])).content
    names = [tmp_path / f"{i}.png" for i in range(2)]
    for name in names:
        name.write_bytes(b"one")
    before = Pictures("train", names, [0, 1])
    assert before.content == Pictures("train", names, [0, 1]).content
    names[1].write_bytes(b"two")  # the same name and size
    assert before.digest() == Pictures("train", names, [0, 1]).digest()
    assert before.content != Pictures("train", names, [0, 1]).content
    rows = world.noise((1,), 2, "train")
    assert rows.where(rows.ids > 1000).content == rows.content == Joined([rows, rows]).content
    assert Joined([rows, world.noise((2,), 2, "train")]).content is None
    assert Relabelled(rows, 3).content == rows.content != Relabelled(rows, 3, 5).content


@pytest.mark.parametrize("asked", [{"classes": [2]}, {"samples": [2001, 7003]}, {"experiences": ["task-1"]}], ids=str)
def test_a_request_takes_forgotten_samples_off_the_shelf_for_all_runs(asked, met, world, stream, tmp_path):
    request = forget_request("f", stream[:3], **asked)
    gone = {"train": set(request.data.ids.tolist()), "test": {1000 * c + i for c in request.classes for i in range(6)}}
    contents = contents_of(list(world.Listed(stream[:3]).steps()))

    def on_the_shelf(split):
        directory, data = SharedDirectory(tmp_path / "shared-features", LARGE), data_folder(contents(f"noise/{split}"))
        return [set(held(directory, data, p.name)) for p in (directory.path / data).iterdir()]

    met(stream[:3], EASE(), made="another backbone")
    before = {split: on_the_shelf(split) for split in gone}
    assert all(sum(map(len, before[split])) for split in gone)
    assert gone["train"] <= set.union(*before["train"])
    met([*stream[:3], request], EASE())
    for split, ids in gone.items():
        left = set.union(*on_the_shelf(split))
        assert not left & ids
        assert left == set.union(*before[split]) - ids


def test_a_killed_run_finds_what_it_would_have_found(met, world, stream, tmp_path):
    """Nothing is given before the request is recorded; what was recorded is given, or erased, when it goes on."""
    events = [*stream[:2], forget_request("f", stream[:2], classes=[2]), stream[2]]
    met(stream[:1], EASE(), among=events)
    shutil.copytree(tmp_path / "shared-features", tmp_path / "again")
    _, whole = met(events, EASE())

    class Killed(Exception):
        pass

    class Dying:
        """A journal of a process that dies before or after an event is recorded."""

        def __init__(self, inner, at, late):
            self.inner, self.at, self.late = inner, at, late

        def starts(self, step):
            self.kept = None

        def ends(self, step, measurements, cost):
            if step.event.name == self.at and not self.late:
                raise Killed
            self.inner.ends(step, measurements, cost)
            self.inner.features = {k: v.clone() for k, v in self.inner.learner.model.store.state().items()}
            if step.event.name == self.at:
                raise Killed

    measurements, costs, kept = [], [], None
    deaths = [
        ("task-0", False),
        ("task-0", True),
        ("task-1", True),
        ("f", False),
        ("f", True),
        ("task-2", False),
        ("", True),
    ]
    for at, late in deaths:
        learner, scenario = world.learner(EASE(), DropAdapter()), world.Listed(events)
        journal = world.Listener(learner)
        if kept is not None:
            checkpoint.restore(learner, *kept[0])
            learner.model.store.load(kept[1])
        directory = SharedDirectory(tmp_path / "again", LARGE)
        learner.model.store.source = SharedFeatures(directory, "m", contents_of(list(scenario.steps())))
        with suppress(Killed):
            loop.run_stream(
                learner, scenario, world.make_trainer, Evaluator(), Dying(journal, at, late), 8, list(measurements)
            )
        measurements, costs = [*measurements, *journal.measurements], [*costs, *journal.costs]
        kept = (journal.states[-1], journal.features) if journal.states else kept
    assert measurements == whole.measurements
    assert [(c.passes, c.found) for c in costs] == [(c.passes, c.found) for c in whole.costs]
    assert found(whole) > 0
    names = [
        [str(p.relative_to(tmp_path / side)) for p in files(tmp_path / side)] for side in ("shared-features", "again")
    ]
    assert names[0] == names[1]


def test_a_shelf_that_takes_no_more_is_left_alone_and_one_that_keeps_what_must_go_is_an_error(
    met, world, stream, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    events = [*stream[:2], forget_request("f", stream[:2], classes=[2])]
    plain, _ = met(events, SimpleCIL(), made="other")
    with monkeypatch.context() as patch:
        patch.setattr(SharedDirectory, "put", full)
        assert world.differences(plain, met(events, SimpleCIL())[0]) == []
    met(stream[:2], SimpleCIL(), made="another")
    with monkeypatch.context() as patch:
        patch.setattr(SharedDirectory, "erase", full)
        with pytest.raises(UserError, match=r"recorded, but .*shared-features.*clf resume"):
            met(events, SimpleCIL())
    contents = contents_of(list(world.Listed(events).steps()))
    directory, request = SharedDirectory(tmp_path / "shared-features", LARGE), events[-1]
    assert directory.erase(data_folder(contents("noise/train")), request.data.ids) > 0


def test_what_was_evicted_is_not_given_again_at_every_request(met, stream, tmp_path, monkeypatch):
    given = []
    put = SharedDirectory.put
    monkeypatch.setattr(
        SharedDirectory, "put", lambda self, d, m, ids, rows: (given.append(len(ids)), put(self, d, m, ids, rows))
    )
    monkeypatch.setattr(SharedDirectory, "pieces", lambda self, data, made: [])
    _, journal = met(stream, EASE())
    assert sum(given) == passes(journal)


def test_rows_are_found_by_sample_and_files_are_put_together(directory):
    for i in range(2 * MOST_FILES):
        ids = torch.tensor([5 * i, 5 * i + 3, 3])[: 2 + (i > 0)]
        directory.put("d", "m", ids, rows_of(ids))
    assert len(files(directory.path)) < MOST_FILES
    shared_features = SharedFeatures(directory, "m", {"s": "content"}.get)
    assert shared_features.offer("bare/unknown", torch.tensor([1])) is None
    for reader in (directory, SharedDirectory(directory.path, LARGE)):
        pieces = reader.pieces("d", "m")
        assert all(torch.equal(p.rows, rows_of(p.ids)) for p in pieces)
        assert {i for p in pieces for i in p.ids.tolist()} == {5 * i + k for i in range(2 * MOST_FILES) for k in (0, 3)}


@pytest.mark.parametrize("damage", ["torn", "edited", "emptied", "nonsense"])
def test_a_damaged_file_is_taken_away_and_written_again(damage, directory):
    ids = torch.arange(100)
    directory.put("d", "m", ids, rows_of(ids))
    (file,) = files(directory.path)
    raw = file.read_bytes()
    file.write_bytes({"torn": raw[:-7], "edited": raw[:-1] + b"x", "emptied": b"", "nonsense": raw[::-1]}[damage])
    fresh = SharedDirectory(directory.path, LARGE)
    assert fresh.pieces("d", "m") == []
    assert files(directory.path) == []
    fresh.put("d", "m", ids, rows_of(ids))
    assert files(directory.path) == [file]
    assert file.read_bytes() == raw


def test_what_was_used_longest_ago_leaves_first(directory):
    ids = torch.arange(100)
    for i, made in enumerate("abc"):
        directory.put("d", made, ids + i, rows_of(ids + i))
        os.utime(files(directory.path / "d" / made)[0], (1000 + i, 1000 + i))
    size = files(directory.path)[0].stat().st_size
    assert held(directory, made="a")  # read, so used just now
    SharedDirectory(directory.path, 3 * size).evict()
    assert len(files(directory.path)) == 3
    SharedDirectory(directory.path, 3 * size - 1).evict()
    assert [m for m in "abc" if held(directory, made=m)] == ["a", "c"]
    stale = directory.path / "d" / "a" / ".tmp-1"
    stale.write_bytes(b"half")
    directory.evict()
    assert stale.exists()
    os.utime(stale, (1000, 1000))
    SharedDirectory(directory.path, 0).evict()
    assert list(directory.path.rglob("*")) in ([directory.path / ".lock"], [])


def test_only_the_owner_may_look_and_a_directory_that_cannot_be_used_is_named(directory, tmp_path):
    directory.put("d", "m", torch.arange(3), rows_of(torch.arange(3)))
    assert {p.stat().st_mode & 0o077 for p in (directory.path, directory.path / "d", directory.path / "d" / "m")} == {0}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*--features"):
        SharedDirectory(tmp_path / "file", LARGE)


@forks
def test_processes_that_write_evict_and_erase_at_once_read_nothing_wrong(world, tmp_path):
    limit = 40_000

    def work(seed):
        rng, directory, end, right = random.Random(seed), SharedDirectory(tmp_path, limit), time.monotonic() + 1.5, 0
        while time.monotonic() < end:
            made = rng.choice("ab")
            ids = torch.tensor(rng.sample(range(500), 40))
            for piece in directory.pieces("d", made):
                assert torch.equal(piece.rows, rows_of(piece.ids))
                assert piece.ids.diff().gt(0).all()
                right += len(piece.ids)
            directory.put("d", made, ids, rows_of(ids))
            if rng.random() < 0.3:
                directory.erase("d", torch.tensor(rng.sample(range(500), 100)))
            directory.evict()
        assert right

    pids = [world.forked(lambda s=s: work(s)) for s in range(3)]
    os.kill(pids[-1], signal.SIGKILL) if time.sleep(0.7) is None else None  # it may hold the lock
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, -signal.SIGKILL]
    directory = SharedDirectory(tmp_path, limit)
    directory.evict()
    assert 0 < sum(p.stat().st_size for p in files(tmp_path) if not p.name.startswith(".tmp-")) <= limit
    directory.erase("d", torch.arange(500))
    assert held(directory, made="a") == held(directory, made="b") == []


@forks
def test_two_who_erase_at_once_both_get_their_way(world, tmp_path):
    directory, everything = SharedDirectory(tmp_path, LARGE), torch.arange(200)
    for made in "abcdefgh":
        directory.put("d", made, everything, rows_of(everything))
    pids = [
        world.forked(
            lambda s=s: [SharedDirectory(tmp_path, LARGE).erase("d", torch.tensor([i])) for i in range(s, 60, 2)]
        )
        for s in (0, 1)
    ]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert all(held(directory, made=made) == list(range(60, 200)) for made in "abcdefgh")


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
    """A directory with a finished run ``one`` of prototypes, and the features it ``shared``."""
    root = tmp_path_factory.mktemp("somewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["run", *GLYPHS, "--run_dir", "one"]) == 0
    return root


def test_a_request_in_another_precision_takes_none_of_the_features_of_the_run(somewhere):
    for args, wanted in (
        ([], True),
        (["--trainer.precision", "bf16-mixed"], False),
        (["--data.batch_size", "3"], True),
    ):
        run = OpenRun.reopen(RunDirectory.open(somewhere / "one"), args)
        assert bool(run.learner.model.store.state()) is wanted


def test_the_verbs_share_and_forget_from_any_directory(somewhere, tmp_path, monkeypatch):
    root = somewhere
    monkeypatch.chdir(root)
    directory, count = SharedDirectory(root / "shared", LARGE), len(files(root / "shared"))
    assert count
    monkeypatch.setenv("CLF_FEATURES", "shared")
    assert main(["run", *GLYPHS[: GLYPHS.index("--features")], "--run_dir", "two"]) == 0
    costs = [json.loads((root / r / "results.json").read_text())["cost"] for r in ("one", "two")]
    assert costs[0]["passes_statistics"] + costs[0]["passes_evaluate"] == costs[1]["features_found"] > 0
    assert costs[1]["passes_statistics"] == costs[1]["passes_evaluate"] == costs[0]["features_found"] == 0
    monkeypatch.chdir(tmp_path)
    places = {p.parent for p in files(directory.path)}
    before = sum(len(held(directory, p.parent.name, p.name)) for p in places)
    assert main(["forget", str(root / "one"), "--classes", "3"]) == 0
    assert {p.parent for p in files(directory.path)} == places, (
        "a run that goes on files its features where it did before"
    )
    assert before - sum(len(held(directory, p.parent.name, p.name)) for p in places) == 6 + 3
    assert main(["verify", str(root / "one")]) == 0
    assert not (tmp_path / "shared").exists()
    shutil.rmtree(directory.path)
    assert main(["forget", str(root / "two"), "--classes", "3"]) == 0
    assert not directory.path.exists()

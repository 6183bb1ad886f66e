"""A run directory keeps what was committed, through kills, full disks and other people's editors."""

import errno
import itertools
import os
import random
import shutil
import signal
import stat
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from cl_framework.errors import UserError
from cl_framework.runs import derived_files, receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.records import outdated
from cl_framework.storage import files
from cl_framework.storage.files import seal
from cl_framework.storage.tensors import pack, unpack


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "seed: 0\n", {"seed": 0})


def alive(n):
    """What event ``n`` of the made-up stream below leaves: every third one forgets what the one before it learned."""
    return [i for i in range(n + 1) if i % 3 != 2 and not (i % 3 == 1 and i < n)]


def meet(run, n):
    """Commit event ``n``."""
    tensors = {"shared": torch.full((3,), float(n)), **{f"own/{i}": torch.arange(4) + 100 * i for i in alive(n)}}
    ids = torch.tensor(alive(n))
    features = {"bare/digits/ids": ids, "bare/digits/rows": ids[:, None] * torch.ones(2)}
    kind, receipt = ("forget", {"request": f"event {n}"}) if n % 3 == 2 else ("learn", None)
    run.commit(f"event {n}", kind, tensors, {"n": n}, {"accuracy": n / 7}, features, receipt)


def assert_has_met(run, count):
    """Everything reads back as event ``count - 1`` left it."""
    events = run.events()
    assert [e.state["n"] for e in events] == list(range(count))
    state, features = run.state(), run.features()
    if count:
        kept = alive(count - 1)
        assert sorted(state) == sorted(["shared", *(f"own/{i}" for i in kept)])
        assert state["shared"].tolist() == [count - 1.0] * 3
        assert all(torch.equal(state[f"own/{i}"], torch.arange(4) + 100 * i) for i in kept)
        assert features["bare/digits/ids"].tolist() == kept
        assert features["bare/digits/rows"].tolist() == [[i, i] for i in kept]


def assert_sound(path, at_least=0):
    """After a crash anywhere: readable at once, spotless after a sweep."""
    run = RunDirectory.open(path)
    count = len(run.events())
    assert count >= at_least
    assert_has_met(run, count)
    run.sweep()
    assert run.verify() == []
    assert_has_met(run, count)
    assert not list(outdated(run.events()))
    assert [r["request"] for r in receipts.read_receipts(path)] == [f"event {n}" for n in range(2, count, 3)]
    assert not (path / "results.json").exists() or count < 3
    return count


def test_a_new_run_holds_its_config_and_manifest_and_cannot_be_started_twice_once_it_has_an_event(run):
    assert run.config == "seed: 0\n"
    assert RunDirectory.open(run.path).manifest.seed == 0
    assert (run.events(), run.state(), run.verify()) == ([], {}, [])
    with run.lock(), pytest.raises(UserError, match="is in use by"):
        RunDirectory.create(run.path, "", {})
    assert run.config == "seed: 0\n"
    run.commit("task-0", "learn", {}, {}, {})
    with pytest.raises(UserError, match="clf resume"):
        RunDirectory.create(run.path, "", {})


def test_a_run_does_not_start_among_other_files_but_over_what_a_killed_start_left(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match="not an empty directory"):
        RunDirectory.create(tmp_path, "", {})
    assert (tmp_path / "config.yaml").read_text() == "mine"
    (tmp_path / ".tmp-manifest.json").write_text("half")
    assert RunDirectory.create(tmp_path, "new", {}).config == "new"


def test_what_is_no_run_is_refused_with_a_reason(tmp_path):
    with pytest.raises(UserError, match="There is no run"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a run"):
        RunDirectory.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        RunDirectory.open(tmp_path)
    (tmp_path / "manifest.json").write_bytes(seal({"schema": 3}))
    with pytest.raises(UserError, match=r"older version \(schema 3, now 4\); run its config again"):
        RunDirectory.open(tmp_path)
    (tmp_path / "manifest.json").write_bytes(seal({"schema": 5}))
    with pytest.raises(UserError, match="upgrade"):
        RunDirectory.open(tmp_path)


def test_an_event_stores_only_what_it_added_or_changed(run):
    a, b = torch.rand(100), torch.rand(2)
    run.commit("t 0", "learn", {"a": a, "b": b}, {}, {})
    run.commit("t 1", "learn", {"a": a.clone(), "b": b + 1, "c": b}, {}, {})
    run.commit("t 2", "learn", {"a": a}, {}, {})
    stored = [set(unpack((run.path / e.data).read_bytes())) for e in run.events()]
    assert stored == [{"a", "b"}, {"b", "c"}, set()]
    assert [e.removed for e in run.events()] == [[], [], ["b", "c"]]
    assert [e.folder for e in run.events()] == ["000-learn-t-0", "001-learn-t-1", "002-learn-t-2"]
    assert set(RunDirectory.open(run.path).state()) == {"a"}
    assert torch.equal(run.state()["a"], a)


def test_every_kind_of_tensor_comes_back_bit_for_bit(run):
    tied = torch.rand(4, 3)
    tensors = {
        "half": torch.rand(3).bfloat16(), "flags": torch.tensor([True, False]), "one": torch.tensor(7),
        "none": torch.empty(0, 5), "turned": tied.T, "tied": tied, "nan": torch.tensor([float("nan"), -0.0]),
    }  # fmt: skip
    run.commit("t", "learn", tensors, {}, {})
    found = run.state()
    assert pack(found) == pack(tensors)
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in tensors.items()}


def test_the_same_events_make_the_same_bytes(tmp_path):
    runs = [RunDirectory.create(tmp_path / name, "c", {}, key=bytes(32)) for name in "ab"]
    for run in runs:
        for n in range(4):
            meet(run, n)
    a, b = ({p.relative_to(r.path): p.read_bytes() for p in r.path.rglob("*") if p.is_file()} for r in runs)
    assert a == b


def test_state_and_metrics_come_back(run):
    run.commit("t", "learn", {}, {"known": [[3, "t"]]}, {"accuracy": 0.1 + 0.2, "old": None})
    (event,) = RunDirectory.open(run.path).events()
    assert event.state == {"known": [[3, "t"]]}
    assert run.metrics(event) == {"accuracy": 0.1 + 0.2, "old": None}


def test_a_taken_name_or_a_metric_that_is_no_number_changes_nothing(run):
    meet(run, 0)
    with pytest.raises(UserError, match="already holds"):
        meet(run, 0)
    with pytest.raises(ValueError, match="JSON"):
        run.commit("nan", "learn", {}, {}, {"accuracy": float("nan")})
    assert assert_sound(run.path) == 1


@pytest.mark.parametrize("harm", ["cut", "flip", "delete"])
@pytest.mark.parametrize(
    "name",
    [
        "config.yaml", "manifest.json", "events/001-learn-event-1/state.safetensors",
        "events/001-learn-event-1/state.json", "events/000-learn-event-0/metrics.json",
        "features/001-learn-event-1.safetensors",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_never_loaded(run, name, harm):
    for n in range(2):
        meet(run, n)
    file = run.path / name
    data = file.read_bytes()
    middle = len(data) // 2
    if harm == "delete":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if harm == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    problems = run.verify()
    assert any(name in p for p in problems), problems
    read = run.features if "features" in name else lambda: (run.state(), run.metrics(run.events()[0]))
    with pytest.raises(UserError, match=file.name):
        read()
    if "state.json" in name or "/" not in name:
        with pytest.raises(UserError, match=file.name):
            meet(run, 2)


def test_a_record_that_was_edited_and_sealed_again_does_not_pass_in_another_place(run, tmp_path):
    meet(run, 0)
    other = RunDirectory.create(tmp_path / "other", "seed: 1\n", {})
    (run.path / "events").rename(other.path / "events")
    assert "not written by this run" in other.verify()[0]


def test_a_missing_event_is_noticed(run):
    for n in range(3):
        meet(run, n)
    (run.path / "events/001-learn-event-1").rename(run.path.parent / "elsewhere")
    assert any("001 is missing" in p for p in run.verify())
    with pytest.raises(UserError, match="001 is missing"):
        run.state()


def test_strays_are_named_and_only_our_own_are_swept(run):
    meet(run, 0)
    (run.path / "events/.tmp-001-learn-x").mkdir()
    (run.path / "features/009-learn-x.safetensors").write_bytes(b"half")
    (run.path / "events/notes.txt").write_text("mine")
    assert len(run.verify()) == 3
    run.sweep()
    (problem,) = run.verify()
    assert "notes.txt" in problem


def test_nothing_forgotten_stays_in_any_file(run):
    secret = torch.rand(64)
    head = torch.rand(2, 64)
    run.commit("a", "learn", {"own": secret, "head": head}, {}, {})
    run.commit("b", "learn", {"own": secret, "head": head, "more": torch.ones(2)}, {}, {})
    needles = [t.numpy().tobytes() for t in (secret, head[1])]
    files = [p for p in run.path.rglob("*") if p.is_file()]
    assert all(any(needle in p.read_bytes() for p in files) for needle in needles)
    run.commit("forget a", "forget", {"head": head[:1], "more": torch.ones(2)}, {}, {}, receipt={"request": "forget a"})
    files = [p for p in run.path.rglob("*") if p.is_file()]
    assert not any(needle in p.read_bytes() for p in files for needle in needles)
    assert run.verify() == []
    assert set(run.state()) == {"head", "more"}


def test_features_are_added_row_by_row_and_leave_every_file_when_forgotten(run):
    rows = torch.rand(4, 3)

    def pairs(*ids):
        return {"bare/k/ids": torch.tensor(ids), "bare/k/rows": rows[list(ids)]}

    run.commit("a", "learn", {}, {}, {}, features=pairs(0, 1))
    RunDirectory.open(run.path).commit("b", "learn", {}, {}, {}, features=pairs(0, 1, 2))
    run = RunDirectory.open(run.path)
    assert run.features()["bare/k/ids"].tolist() == [0, 1, 2]
    assert unpack((run.path / "features/001-learn-b.safetensors").read_bytes())["bare/k/ids"].tolist() == [2]
    run.commit("c", "forget", {}, {}, {}, features=pairs(0, 2), receipt={"request": "c"})
    assert [p.name for p in (run.path / "features").iterdir()] == ["002-forget-c.safetensors"]
    assert torch.equal(run.features()["bare/k/rows"], rows[[0, 2]])
    run.commit("d", "learn", {}, {}, {}, features=None)
    run.commit("e", "learn", {}, {}, {}, features=pairs(0, 2, 3))
    assert run.features()["bare/k/ids"].tolist() == [0, 2, 3]
    run.commit("f", "forget", {}, {}, {}, features={}, receipt={"request": "f"})
    assert (run.features(), list((run.path / "features").iterdir()), run.verify()) == ({}, [], [])


def test_a_receipt_says_what_changed_and_is_written_again_when_lost(run):
    for n in range(3):
        meet(run, n)
    (receipt,) = receipts.read_receipts(run.path)
    assert receipt["event"] == "002-forget-event-2"
    assert receipt["artifacts"]["own/1"][1] is None
    (run.path / receipts.FILE).unlink()
    assert any("no line for 002-forget-event-2" in p for p in run.verify())
    run.sweep()
    assert (run.verify(), receipts.read_receipts(run.path)) == ([], [receipt])
    receipts.append(run.path, {"event": "009-forget-nothing"})
    assert any("line 2 tells of no event" in p for p in run.verify())


def test_a_damaged_receipt_stops_the_next_event(run):
    for n in range(3):
        meet(run, n)
    (run.path / receipts.FILE).write_text("{}\n")
    with pytest.raises(UserError, match="line 1"):
        meet(run, 3)
    assert len(run.events()) == 3


def test_one_process_at_a_time(run):
    with (
        run.lock(),
        pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
        RunDirectory.open(run.path).lock(),
    ):
        pass
    with run.lock():
        pass
    assert run.verify() == []


class Crashed(BaseException):
    """What stands for a kill: nothing in the code catches it."""


def failing(monkeypatch, nth, error):
    """Make the ``nth`` of the calls that change the disk for good fail."""
    calls = itertools.count()

    def wrap(function):
        def called(*args, **kwargs):
            if next(calls) == nth:
                raise error
            return function(*args, **kwargs)

        return called

    monkeypatch.setattr(os, "fsync", wrap(os.fsync))
    for name in ("rename", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, wrap(getattr(Path, name)))


def test_a_crash_at_any_step_of_a_start_leaves_a_run_or_a_place_for_one(tmp_path, monkeypatch):
    done, steps = False, 0
    while not done:
        path = tmp_path / str(steps)
        with monkeypatch.context() as patch, suppress(Crashed):
            failing(patch, steps, Crashed())
            RunDirectory.create(path, "seed: 0\n", {})
            done = True
        if not (path / "manifest.json").exists():
            RunDirectory.create(path, "seed: 0\n", {})
        meet(RunDirectory.open(path), 0)
        assert assert_sound(path) == 1
        steps += 1
    assert steps > 8


def test_bytes_reach_the_disk_before_their_name_does_and_the_name_after_them(tmp_path, monkeypatch):
    calls, rename = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    monkeypatch.setattr(Path, "replace", lambda old, new: calls.append(new.name) or rename(old, new))
    files.replace(tmp_path / "results.json", b"{}")
    assert calls == [False, "results.json", True]


def test_a_folder_with_a_key_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "key").write_text("mine")
    with pytest.raises(UserError, match="not an empty directory"):
        RunDirectory.create(tmp_path, "", {})
    assert (tmp_path / "key").read_text() == "mine"


def test_outputs_are_checked_and_do_not_outlive_a_forget_request(run):
    meet(run, 0)
    for place in ("results.json", "audit.json"):
        (run.path / place).write_text("{}")
        assert [place in p for p in run.verify()] == [True]
        derived_files.add(run.path, [place], 1)
        assert run.verify() == []
    meet(run, 1)
    assert (run.path / "results.json").exists()
    meet(run, 2)
    assert not (run.path / "results.json").exists()
    assert set(derived_files.recorded_files(run.path)) == {"audit.json"}
    assert run.verify() == []


@pytest.fixture
def copies(run, tmp_path):
    """Copies of a run of two events, whose third forgets: it rewrites, replaces, deletes and writes a receipt."""
    for n in range(2):
        meet(run, n)
    (run.path / "results.json").write_text("names what is about to be forgotten")
    derived_files.add(run.path, ["results.json"], 2)
    return (RunDirectory.open(shutil.copytree(run.path, tmp_path / str(i))) for i in itertools.count())


def test_a_crash_at_any_step_of_an_event_leaves_a_sound_run(copies, monkeypatch):
    counts, done = [], False
    while not done:
        run = next(copies)
        with monkeypatch.context() as patch, suppress(Crashed):
            failing(patch, len(counts), Crashed())
            meet(run, 2)
            done = True
        counts.append(assert_sound(run.path, at_least=2))
    assert len(counts) > 20
    assert counts == sorted(counts)  # once it has happened, it has happened
    assert (counts[0], counts[-1]) == (2, 3)


def test_a_full_disk_at_any_step_leaves_the_run_as_it_was_or_finished(copies, monkeypatch):
    said, done = [], False
    while not done:
        run = next(copies)
        with monkeypatch.context() as patch:
            failing(patch, len(said), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            try:
                meet(run, 2)
                done = True
            except UserError as error:
                said.append(str(error))
                assert "No space left" in said[-1]
                assert len(run.events()) == (2 if "as it was before" in said[-1] else 3)
                assert not list((run.path / "events").glob(".tmp-*"))
        meet(run, assert_sound(run.path, at_least=2))
        assert run.verify() == []
    assert "as it was before" in said[0]
    assert "tidying up" in said[-1]


def commit_forever(path, acknowledge):
    """Go on with the stream, telling after each event that it is done."""
    run = RunDirectory.open(path)
    with run.lock():
        run.sweep()
        for n in itertools.count(len(run.events())):
            meet(run, n)
            os.write(acknowledge, b"+")


def test_every_event_that_was_reported_done_survives_kills_at_random_moments(run, world):
    rng, done = random.Random(0), 0
    for _ in range(15):
        reader, writer = os.pipe()
        child = world.forked(partial(commit_forever, run.path, writer))
        os.close(writer)
        heard = os.read(reader, 1)  # it is at work
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        while more := os.read(reader, 4096):
            heard += more
        os.close(reader)
        assert os.WIFSIGNALED(status)
        done = assert_sound(run.path, at_least=done + len(heard))
    assert done >= 15

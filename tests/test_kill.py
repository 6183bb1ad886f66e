"""A run that is killed at any moment and resumed ends with the same bits as one that never was."""

import json
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cl_framework.engine import checkpoint, loop
from cl_framework.engine.trainers import RequestBar
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.screen import Screen
from cl_framework.feature_cache.shared_directory import SharedDirectory
from cl_framework.feature_cache.sharing import SharedFeatures, contents_of
from cl_framework.runs import receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.manifest import MANIFEST
from cl_framework.runs.recorder import RunRecorder
from cl_framework.streams.events import forget_request
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.neg_grad import NegGradPlus

KILLS = 12
PATIENCE = 60.0


def working(world, events, strategy, unlearner, lent=None):
    """Return what starts or continues a run in a directory until it is finished, as a process of its own would.

    Beside each run lies a copy of its own of the features that others have ``lent``, if they have.
    """
    scenario = world.Listed(events)

    def work(path):
        directory = shared_directory_of(path)
        if lent is not None and not directory.exists():
            shutil.rmtree(half := directory.with_name(f"{directory.name}-half"), ignore_errors=True)
            shutil.copytree(lent, half).rename(directory)
        learner = world.learner(strategy(), unlearner())
        run = (
            RunDirectory.open(path)
            if (path / MANIFEST).exists()
            else RunDirectory.create(path, "seed: 0\n", {"seed": 0})
        )
        with run.lock(), Path(os.devnull).open("w") as nowhere:
            run.sweep()
            if events := run.events():
                checkpoint.restore(learner, run.state(), events[-1].state)
                learner.model.store.load(run.features())
            learner.model.store.folder, learner.model.store.budget = path, 4000  # a part of it lies on the disk
            if lent is not None:
                contents = contents_of(list(scenario.steps()))
                learner.model.store.source = SharedFeatures(SharedDirectory(directory, 2**30), "m", contents)
            console = Console(file=nowhere)
            screen = Screen(console, scenario.class_names, len(scenario.events), RequestBar(console))
            recorder = RunRecorder(run, learner, scenario.class_names, screen)
            selects = learner.strategy.isolates == "experience"
            loop.run_stream(
                learner, scenario, world.make_trainer, Evaluator(selects), recorder, 8, recorder.measurements
            )
            recorder.close()

    return work


def shared_directory_of(path):
    return path.with_name(f"{path.name}-shared-features")


@pytest.fixture
def carry_on(world, stream, tmp_path):
    """A run that learns, forgets and learns more; another one like it has come half way."""
    request = forget_request("forget-0", stream[:3], classes=[2], samples=[7001, 7002])
    events, lent = [*stream[:3], request, stream[3]], tmp_path / "lent"
    learner, scenario = world.learner(EASE(), DropAdapter()), world.Listed(events)
    learner.model.store.source = SharedFeatures(SharedDirectory(lent, 2**30), "m", contents_of(list(scenario.steps())))
    half = world.Listed(stream[:2])
    loop.run_stream(learner, half, world.make_trainer, Evaluator(), world.Listener(learner), 8)
    return working(world, events, EASE, DropAdapter, lent)


def ended(pid, delay):
    """Wait for a process to end by itself; after ``delay`` seconds kill it. Tell whether it ended."""
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "a resumed run failed; see its traceback"
            return True
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def outcome(world, path):
    """Everything a run leaves that no clock decides: results, final weights, names of files, stored bytes."""
    run = RunDirectory.open(path)
    assert run.verify() == []
    files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    stored = {p: (path / p).read_bytes() for p in files if p.endswith(".safetensors")}
    stored |= {
        str(p.relative_to(shared_directory_of(path))): p.read_bytes()
        for p in shared_directory_of(path).glob("*/*/[!.]*")
    }
    return world.timeless(json.loads((path / "results.json").read_text())), run.state(), files, stored


def assert_same(one, two):
    assert one[0] == two[0]
    assert one[1].keys() == two[1].keys()
    assert all(torch.equal(two[1][name], tensor) for name, tensor in one[1].items())
    assert one[2:] == two[2:]


@pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="needs processes that may be forked")
def test_killed_runs_resume_to_the_same_bits(carry_on, world, tmp_path):
    durations = []
    for name in ("whole", "again"):
        began = time.monotonic()
        assert ended(world.forked(partial(carry_on, tmp_path / name)), PATIENCE)
        durations.append(time.monotonic() - began)
    whole = outcome(world, tmp_path / "whole")
    assert len(whole[0]["events"]) == 5
    assert whole[0]["forget"][0]["accuracy_forget"] == 0
    assert whole[0]["cost"]["features_found"] > 0
    assert_same(whole, outcome(world, tmp_path / "again"))

    rng, kills, cut, runs = random.Random(1993), 0, set(), 0
    while (wanted := kills < KILLS or len(cut) < 3) and kills < 10 * KILLS:  # a loaded machine may need more throws
        path, runs = tmp_path / f"run-{runs}", runs + 1
        while not ended(world.forked(partial(carry_on, path)), rng.uniform(0, min(durations)) if wanted else PATIENCE):
            kills += 1
            cut.add(len(list(path.glob("events/[0-9]*"))))
            wanted = kills < KILLS or len(cut) < 3
        assert_same(whole, outcome(world, path))
    assert len(cut) >= 3, "kills must fall into different events"


@pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="needs processes that may be forked")
@pytest.mark.parametrize(("strategy", "unlearner"), [(EASE, DropAdapter), (Finetune, NegGradPlus)])
def test_a_killed_request_has_happened_or_not_and_the_same_request_again_finishes_it(
    strategy, unlearner, world, stream, tmp_path
):
    learned, whole = tmp_path / "learned", tmp_path / "whole"
    working(world, stream[:2], strategy, unlearner)(learned)
    request = forget_request("forget-0", stream[:2], classes=[2], samples=[7001, 7002])
    ask = working(world, [*stream[:2], request], strategy, unlearner)
    shutil.copytree(learned, whole)
    began = time.monotonic()
    assert ended(world.forked(partial(ask, whole)), PATIENCE)
    duration, wanted = time.monotonic() - began, outcome(world, whole)
    sides = [RunDirectory.open(p).state() for p in (learned, whole)]

    rng, kills = random.Random(7), 0
    for i in range(10):
        path = shutil.copytree(learned, tmp_path / f"run-{i}")
        if ended(world.forked(partial(ask, path)), rng.uniform(0.2, 1) * duration):
            continue
        kills += 1
        run = RunDirectory.open(path)
        found, side = run.state(), sides[len(run.events()) - 2]
        assert found.keys() == side.keys()
        assert all(torch.equal(side[name], tensor) for name, tensor in found.items())
        assert ended(world.forked(partial(ask, path)), PATIENCE)
        assert_same(wanted, outcome(world, path))
        assert len(receipts.read_receipts(path)) == 1
        if kills == 6:
            break
    assert kills >= 3

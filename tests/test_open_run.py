"""A run that is opened resolves its stream once, whatever its verb asks of it."""

from collections import Counter

import pytest

from cl_framework.cli.main import main
from cl_framework.runs import OpenRun, RunDirectory
from scenarios import class_incremental, mixed

GLYPHS = "glyphs:classes=4,train=6,test=3"
TINY = [
    "--model.strategy",
    "SimpleCIL",
    "--model.unlearner",
    "DropAdapter",
    "--data.scenario",
    "ClassIncremental",
    "--data.scenario.increment",
    "2",
]
TINY += [
    "--data.scenario.dataset",
    GLYPHS,
    "--data.scenario.transform",
    "Pilot",
    "--data.scenario.transform.size",
    "32",
]


@pytest.fixture
def resolved(monkeypatch):
    """How often each stream was asked for its steps, oldest first."""
    times, streams = Counter(), []
    for kind in (class_incremental.ClassIncremental, mixed.Mixed):
        asked = kind.steps

        def steps(self, asked=asked):
            times[id(self)] += 1
            streams.append(self)  # so that no other one gets its id
            return asked(self)

        monkeypatch.setattr(kind, "steps", steps)
    return times


@pytest.fixture
def run(tmp_path):
    """A finished run."""
    assert main(["run", *TINY, "--run_dir", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_a_new_run_resolves_its_stream_before_and_after_its_samples_are_listed(resolved, tmp_path):
    assert main(["run", *TINY, "--run_dir", str(tmp_path / "run")]) == 0
    assert list(resolved.values()) == [2]


def test_a_plan_resolves_the_stream_once(resolved):
    assert main(["plan", *TINY]) == 0
    assert list(resolved.values()) == [1]


@pytest.mark.parametrize(
    "words",
    [
        ["resume"],
        ["evaluate"],
        ["forget", "--classes", "1"],
        ["forget", "--samples", "id:0"],
        ["plan-forget", "--classes", "1"],
        ["plan-forget", "--classes", "1", "--json"],
        ["audit", "--fast", "--no-relearn"],
    ],
    ids=" ".join,
)
def test_a_verb_resolves_the_stream_of_a_run_once(words, run, request):
    if words[0] == "audit":
        assert main(["forget", str(run), "--classes", "0"]) == 0
    times = request.getfixturevalue("resolved")
    assert main([words[0], str(run), *words[1:]]) == 0
    assert list(times.values()) == [1]


def test_a_prediction_resolves_no_stream(run, tmp_path, resolved):
    import torch
    from torchvision.utils import save_image

    save_image(torch.zeros(3, 32, 32), tmp_path / "one.png")
    assert main(["predict", str(run), str(tmp_path / "one.png")]) == 0
    assert not resolved


def test_what_is_learned_later_is_resolved_alone(run, resolved):
    more = [word.replace("classes=4", "classes=2,seed=5") for word in TINY[4:]]
    assert main(["learn", str(run), *more]) == 0
    assert list(resolved.values()) == [1, 2]  # the new stream before and after its samples are listed
    resolved.clear()
    assert main(["forget", str(run), "--classes", "0"]) == 0
    assert list(resolved.values()) == [1, 1]


def test_a_request_leaves_the_steps_before_it_as_they_were(run):
    opened = OpenRun.reopen(RunDirectory.open(run))
    longer = opened.along(opened.timeline.forgetting({"classes": [1], "samples": [3]}))
    assert all(a is b for a, b in zip(opened.steps, longer.steps, strict=False))
    assert [s.event.name for s in longer.left] == ["forget-0"]
    assert opened.left == []
    (hidden,) = longer.timeline.later[-1].forget.samples
    assert hidden != 3

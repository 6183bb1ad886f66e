"""The optimiser's settings: given anew where a run goes on, and not kept in silence by another class."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cl_framework.cli.main import main
from cl_framework.configuration import optimiser
from cl_framework.configuration.experiment import resolve
from cl_framework.engine import loop
from cl_framework.errors import UserError
from cl_framework.runs import reopening
from cl_framework.runs.directory import RunDirectory

SMALL = [
    "--model.strategy", "Finetune", "--model.unlearner", "Retrain", "--data.scenario", "ClassIncremental",
    "--data.scenario.dataset", "glyphs:classes=6,train=4,test=2", "--data.scenario.increment", "2",
    "--trainer.max_epochs", "1", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1",
]  # fmt: skip
LOWER = ["--model.optimizer.lr", "0.001", "--model.schedule", "constant"]


@pytest.fixture
def stop_after(monkeypatch):
    """Let every run end like one that was killed once it has carried out so many more events."""
    whole = loop.carry_out

    def stop(count):
        left = iter(range(count or 0))

        def carry_out(*args, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return whole(*args, **options)

        monkeypatch.setattr(loop, "carry_out", whole if count is None else carry_out)

    return stop


@pytest.fixture
def begun(tmp_path, stop_after) -> Path:
    """A run that was stopped after the first of three experiences."""
    stop_after(1)
    assert main(["run", *SMALL, "--run_dir", str(tmp_path / "begun")]) == 130
    stop_after(None)
    return tmp_path / "begun"


def test_a_run_goes_on_with_another_rate_which_is_recorded_and_stays(begun, tmp_path, stop_after):
    runs = {name: shutil.copytree(begun, tmp_path / name) for name in ("plain", "lower", "stopped")}
    assert main(["resume", str(runs["plain"])]) == 0
    assert main(["resume", str(runs["lower"]), *LOWER]) == 0
    stop_after(1)
    assert main(["resume", str(runs["stopped"]), *LOWER]) == 130
    stop_after(None)
    assert main(["resume", str(runs["stopped"])]) == 0  # not said again
    plain, lower, stopped = (RunDirectory.open(path) for path in runs.values())
    assert [e.state.get("changed") for e in lower.events()] == [None, LOWER, LOWER]
    assert [e.state.get("changed") for e in stopped.events()] == [None, LOWER, LOWER]
    one, two, other = lower.state(), stopped.state(), plain.state()
    assert all(torch.equal(one[k], two[k]) for k in one.keys() | two.keys())
    assert not all(torch.equal(one[k], other[k]) for k in one.keys() | other.keys())
    assert lower.verify() == []
    assert lower.config == plain.config  # what the run was started with


def test_learn_takes_a_rate_of_its_own_beside_the_data(begun, capsys):
    assert main(["resume", str(begun)]) == 0
    more = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", "glyphs:classes=8,train=4,test=2"]
    assert main(["learn", str(begun), "--model.optimizer.lr", "0.001", *more, "--data.scenario.order", "[6, 7]"]) == 0
    last = RunDirectory.open(begun).events()[-1].state
    assert last["changed"] == ["--model.optimizer.lr", "0.001"]
    assert "--model.optimizer.lr" not in last["later"][1]["learn"]


def test_nothing_but_the_optimiser_may_change(begun, capsys):
    assert main(["resume", str(begun), "--model.strategy", "EASE"]) == 2
    assert "`clf resume` has no option --model.strategy" in capsys.readouterr().err
    event = SimpleNamespace(state={"changed": ["--config", "/etc/passwd"]}, place="events/000/state.json")
    with pytest.raises(UserError, match="changes other settings than the optimiser's"):
        reopening.changed([event], begun)


def test_divergence_names_a_command_that_works(begun, capsys):
    assert main(["resume", str(begun), "--model.optimizer.lr", "1e30"]) == 2
    assert "--model.optimizer.lr" in (said := capsys.readouterr().err)
    assert "clf resume DIR" in said
    assert len(RunDirectory.open(begun).events()) == 1
    assert main(["resume", str(begun), "--model.optimizer.lr", "0.01"]) == 0
    assert len(RunDirectory.open(begun).events()) == 3


PUBLISHED = """model:
  strategy: Finetune
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.01, momentum: 0.9, weight_decay: 0.0005}}
data: {scenario: {class_path: ClassIncremental, init_args: {dataset: digits}}}
"""


@pytest.mark.parametrize(("flags", "told"), [
    (["--model.optimizer", "Adam"], "Adam keeps lr 0.01 and weight_decay 0.0005, given for SGD; --model.optimizer.lr"),
    (["--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr", "0.001"], "Adam keeps weight_decay 0.0005, "),
    (["--model.optimizer", "Adam", "--model.optimizer.lr=0.001", "--model.optimizer.weight_decay", "0"], None),
    (["--model.optimizer.lr", "0.001"], None),
    (["--model.optimizer", "SGD"], None),
    ([], None),
])  # fmt: skip
def test_what_another_class_keeps_is_said(flags, told, tmp_path):
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    argv = ["--config", str(tmp_path / "published.yaml"), *flags]
    said = optimiser.leftover_warning(argv, resolve(argv))
    assert (said is None) if told is None else said.startswith(told)


def test_plan_warns_of_it(tmp_path, capsys):
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    assert main(["plan", "--config", str(tmp_path / "published.yaml"), "--model.optimizer", "Adam"]) == 0
    assert "warning  Adam keeps lr 0.01 and weight_decay 0.0005" in capsys.readouterr().out

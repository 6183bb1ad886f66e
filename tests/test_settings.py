"""Numbers are checked before anything runs, and what diverges is not committed."""

import json
import math

import pytest
import torch

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.cli.main import main
from cl_framework.configuration.sections import Data
from cl_framework.engine import loop
from cl_framework.errors import UserError
from cl_framework.settings.ranges import check_numbers
from cl_framework.streams.identifiers import sample_ids
from cl_framework.streams.samples import Rows
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.lwf import LwF
from strategies.learning.replay import Replay
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.gradient_ascent import GradientAscent

GLYPHS = "glyphs:classes=4,train=5,test=3"
TINY = [
    "run", "--config", "configs/quickstart.yaml", "--data.scenario", "ClassIncremental",
    "--data.scenario.dataset", GLYPHS, "--trainer.max_epochs", "1", "--data.batch_size", "8",
]  # fmt: skip
NESTED = [
    "--data.scenario", "Mixed", "--data.scenario.stream", "ClassIncremental", "--data.scenario.stream.dataset", GLYPHS
]  # fmt: skip
OUT_OF_RANGE = {
    "model.optimizer.lr nan": "model.optimizer.lr must be a finite number; found nan",
    "model.optimizer.lr .inf": "model.optimizer.lr must be a finite number; found inf",
    "model.optimizer.lr -1": "model.optimizer.lr must be at least 0; found -1",
    "model.optimizer.momentum .nan": "momentum must be a finite number",
    "model.optimizer.momentum 5": "momentum must be at least 0 and below 1; found 5",
    "model.optimizer.weight_decay .nan": "weight_decay must be a finite number",
    "trainer.gradient_clip_val .nan": "trainer.gradient_clip_val must be a finite number",
    "trainer.gradient_clip_val -1": "trainer.gradient_clip_val must be at least 0",
    "trainer.max_epochs -1": "trainer.max_epochs must be at least 1; found -1",
    "trainer.max_epochs 0": "trainer.max_epochs must be at least 1; found 0",
    "trainer.max_epochs null": "trainer.max_epochs must be at least 1; found null",
    "trainer.accumulate_grad_batches 0": "accumulate_grad_batches must be at least 1",
    "trainer.limit_train_batches 0": "limit_train_batches must be a share above 0",
    "trainer.log_every_n_steps 0": "log_every_n_steps must be at least 1",
    "trainer.overfit_batches 1": "trainer.overfit_batches must be 0",
    "seed_everything -1": "seed_everything must be from 0 to 4294967295; found -1",
    "seed_everything 99999999999": "seed_everything must be from 0 to 4294967295",
    "model.adapter.width -1": "model.adapter.width must be at least 1; found -1",
    "model.adapter.width 0": "model.adapter.width must be at least 1; found 0",
    "model.adapter.width 1000000000": "lower its width, rank or number of tokens under model.adapter",
    "model.adapter.dropout 5": "model.adapter.dropout must be from 0 to 1",
    "model.strategy.alpha .nan": "model.strategy.alpha must be a finite number",
    "model.strategy.beta -1": "model.strategy.beta must be at least 0; found -1",
    "data.scenario.order_seed -1": "data.scenario.order_seed must be from 0 to 4294967295; found -1",
    "threads 1000000000": "threads must be from 1 to 1024; found 1000000000",
    "data.scenario.cache .nan": "data.scenario.cache must be a finite number",
    "data.batch_size 0": "data.batch_size must be at least 1; found 0",
}


@pytest.mark.parametrize("said", OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_by_name_before_anything_runs(said, tmp_path, capsys):
    key, _, value = said.partition(" ")
    assert main([*TINY, "--run_dir", str(tmp_path / "r"), f"--{key}", value]) == 2
    told = capsys.readouterr().err
    assert OUT_OF_RANGE[said] in told
    assert told.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_all_numbers_that_cannot_be_are_told_at_once(tmp_path, capsys):
    wrong = ["--trainer.max_epochs=-1", "--data.batch_size=0", "--seed_everything=-1", "--model.adapter.width=0"]
    assert main([*TINY, "--run_dir", str(tmp_path / "r"), *wrong]) == 2
    told = capsys.readouterr().err
    assert told.startswith("clf: 4 settings are out of range: ")
    assert all(name in told for name in ("max_epochs", "batch_size", "seed_everything", "width"))


@pytest.mark.parametrize("sample", ["1e25", "10000000000000000000000000"])
def test_a_sample_id_beyond_64_bits_is_refused(sample, tmp_path, capsys):
    requests = f"[{{after: 1, samples: [{sample}]}}]"
    assert main([*TINY, *NESTED, "--data.scenario.requests", requests, "--run_dir", str(tmp_path / "r")]) == 2
    assert "samples" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("top", ["-1", "0", "x"])
def test_predict_prints_at_least_one_class(top, tmp_path, capsys):
    assert main(["predict", str(tmp_path), "picture.png", "--top", top]) == 2
    assert "a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value"),
    [("precision", "17"), ("accelerator", "gpuu"), ("accelerator", "tpu"), ("devices", "0"), ("devices", "x"),
     ("strategy", "ddpp"), ("num_nodes", "0"), ("max_time", "xx"), ("profiler", "foo")],
)  # fmt: skip
def test_a_trainer_that_cannot_be_built_is_told_in_a_sentence(setting, value, tmp_path, capsys):
    assert main([*TINY, "--run_dir", str(tmp_path / "r"), f"--trainer.{setting}", value]) == 2
    told = capsys.readouterr().err
    assert setting.rstrip("s") in told.lower() or "torch_xla" in told or "duration" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("part", [
    lambda: (EASE(alpha=math.nan), None, None), lambda: (LwF(temperature=0.0), None, None),
    lambda: (Replay(per_class=-1), None, None), lambda: (Finetune(), GradientAscent(lr=-1.0), None),
    lambda: (Finetune(), None, Bottleneck(width=0)), lambda: (Finetune(), None, Bottleneck(10**9)),
    lambda: (Finetune(), None, LoRA(rank=10**9)),
])  # fmt: skip
def test_parts_built_in_python_are_checked_too(part, world):
    strategy, unlearner, adapter = part()
    with pytest.raises(UserError, match=r"must be|would take .* GB"):
        world.learner(strategy, unlearner, adapter)


def test_data_and_plain_mappings_are_checked_the_same_way(stream, world):
    with pytest.raises(UserError, match=r"data.batch_size must be at least 1; found 0"):
        Data(world.Listed(stream), 0)
    check_numbers(
        {"trainer": {"max_epochs": 1, "max_steps": -1}, "lr": 0.0, "flag": True, "name": "nan", "nothing": None}
    )


@pytest.mark.parametrize("lr", ["1e6", "1e30"])
def test_divergence_ends_the_event_and_leaves_the_run_as_it_was(lr, tmp_path, capsys):
    assert main([*TINY, "--run_dir", str(tmp_path / "r"), "--model.optimizer.lr", lr, "--trainer.max_epochs", "3"]) == 2
    told = capsys.readouterr().err
    assert "learning rate" in told or "model.optimizer.lr" in told
    assert "task-0" in told
    assert not (tmp_path / "r").exists()  # so that the same command can be given with another rate


def test_a_last_step_that_diverges_is_noticed_although_its_loss_was_finite(world, stream):
    wild = {"optimizer": lambda p: torch.optim.SGD(p, lr=3e38, weight_decay=1e3), "schedule": "constant"}
    learner = world.learner(Finetune(), **wild)
    with pytest.raises(UserError, match=r"'task-0' left numbers that are not finite in \d+ of \d+ tensors"):
        loop.carry_out(learner, stream[0], lambda epochs: world.make_trainer(1), 1000)


def test_an_optimiser_built_in_python_is_checked_before_it_steps(world, stream):
    learner = world.learner(Finetune(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=math.nan))
    with pytest.raises(UserError, match=r"SGD.momentum must be a finite number; found nan"):
        loop.carry_out(learner, stream[0], world.make_trainer, 8)


def test_statistics_of_features_that_are_not_finite_are_refused_with_the_samples(world, stream):
    event, x = stream[0], stream[0].reference.x.clone()
    x[3] = math.inf
    bad = type(event)(event.name, event.classes, event.data, Rows(x, event.reference.labels, event.reference.ids))
    with pytest.raises(UserError, match=rf"ids \[{int(event.reference.ids[3])}\].*inputs themselves hold NaN"):
        loop.carry_out(world.learner(SimpleCIL()), bad, world.make_trainer, 8)


def test_a_closed_form_state_that_is_not_finite_is_refused(world, stream):
    learner = world.learner(SimpleCIL(), DropAdapter())
    learner.model.backbone.register_buffer("factor", torch.tensor(1.0))
    learner.register_buffer("mean", torch.tensor([math.nan]))
    with pytest.raises(UserError, match=r"not finite in 1 of \d+ tensors \(first in mean\)"):
        loop.carry_out(learner, stream[0], world.make_trainer, 8)


def test_scores_that_overflow_though_all_before_them_is_finite_are_no_answer(world, stream):
    learner = world.learn(world.learner(Finetune()), stream[:1])
    weight = learner.model.head.weight
    weight.data = 3e38 * torch.ones_like(weight) * torch.tensor([1.0, -1.0]).repeat(weight.shape[1] // 2)
    assert torch.isfinite(weight).all()
    with pytest.raises(UserError, match=r"The scores of \d+ samples are no numbers.*Finetune overflows"):
        learner.answer(stream[0].reference)


def test_a_run_goes_on_after_an_event_that_diverged(tmp_path, capsys):
    path = tmp_path / "r"
    assert main([*TINY, "--run_dir", str(path)]) == 0
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}
    wild = ["--unlearner", "NegGradPlus", "--model.unlearner.lr", "1e30"]
    code = main(["forget", str(path), "--classes", "0", *wild])
    assert code == 2
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"} == before
    assert json.loads((path / "results.json").read_text())["forget"] == []


def test_a_file_of_sample_ids_beyond_64_bits_is_refused(tmp_path):
    (tmp_path / "ids.txt").write_text(f"3 {10**25}")
    with pytest.raises(UserError, match=f"holds '{10**25}' among the sample ids"):
        sample_ids(str(tmp_path / "ids.txt"))

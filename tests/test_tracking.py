"""What loggers are told, what callbacks and schedules may watch, and which of them are refused before anything runs."""

import csv
import dataclasses
import json
import re
from importlib.util import find_spec

import pytest
import torch
import yaml
from pytorch_lightning.loggers import CSVLogger

from cl_framework.cli.main import main
from cl_framework.engine import loop
from cl_framework.engine.lineage import artifact_samples, artifacts
from cl_framework.engine.loaders import held_out
from cl_framework.engine.tracking import flat
from cl_framework.engine.trainers import OnAxis
from cl_framework.runs import reopening
from cl_framework.runs.directory import RunDirectory
from strategies.learning.finetune import Finetune

TINY = [
    "--config", "configs/quickstart.yaml", "--trainer.max_epochs", "2", "--data.batch_size", "4",
    "--data.scenario.stream.dataset", "glyphs:classes=6,train=4,test=2",
    "--data.scenario.requests", "[{after: 2, classes: [1]}]", "--trainer.log_every_n_steps", "1",
]  # fmt: skip
LOGGED = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir"]


def rows(folder, version=0):
    with (folder / "lightning_logs" / f"version_{version}" / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run of EASE with a forget request, and what a CSV logger was told of it."""
    path = tmp_path_factory.mktemp("logged")
    assert main(["run", *TINY, *LOGGED, str(path), "--data.validation", "0.3", "--run_dir", str(path / "r")]) == 0
    return path


def test_loss_rate_and_validation_loss_are_logged_on_one_axis_with_every_event(logged):
    told = rows(logged)
    steps = [row["step"] for row in told]
    assert steps == sorted(steps)
    losses = [row["step"] for row in told if "loss" in row]
    assert losses
    assert len(set(losses)) == len(losses)
    assert all("lr" in row for row in told if "loss" in row)
    assert {row["lr"] for row in told if "lr" in row} == {0.05, 0.025}
    assert any("val_loss" in row for row in told)
    events = [row for row in told if "event" in row]
    assert [row["event"] for row in events] == [0, 1, 2, 3]
    assert len({row["step"] for row in events}) == 4
    results = json.loads((logged / "r" / "results.json").read_text())
    assert [row["accuracy/all"] for row in events] == pytest.approx(results["curve"])
    last = events[-1]
    assert last["accuracy/exam-2"] == pytest.approx(results["accuracy_matrix"][-1][2])
    assert last["stream/forgetting_max_past"] == pytest.approx(results["forgetting_max_past"])
    assert last["stream/plasticity"] == pytest.approx(results["plasticity"])
    assert last["cost/seconds"] > 0
    asked = next(row for row in events if "forget/accuracy_forget" in row)
    assert asked["event"] == 2
    assert asked["forget/accuracy_forget"] == 0


def test_plans_shorter_than_the_interval_of_logging_log_the_last_step_of_each_epoch(tmp_path):
    short = ["--trainer.log_every_n_steps", "50", "--run_dir", str(tmp_path / "r")]
    assert main(["run", *TINY, *LOGGED, str(tmp_path), *short]) == 0
    told = rows(tmp_path)
    events = [i for i, row in enumerate(told) if "event" in row]
    assert [("loss" in row, "lr" in row) for row in told[: events[0]]] == [(True, True)] * 2  # of two epochs


def test_logs_hold_the_settings_and_no_name_of_a_class(logged):
    told = yaml.safe_load((logged / "lightning_logs" / "version_0" / "hparams.yaml").read_text())
    assert told["model.strategy"].endswith("EASE")
    assert told["model.optimizer.lr"] == 0.05
    assert told["data.validation"] == 0.3
    names = json.loads((logged / "r" / "results.json").read_text())["class_names"].values()
    text = "".join(p.read_text() for p in (logged / "lightning_logs").rglob("*") if p.is_file())
    assert not [n for n in names if n != "(forgotten)" and re.search(rf"(?<!\w){re.escape(n)}(?!\w)", text)]


def test_names_in_a_request_are_not_logged(tmp_path):
    named = "[{after: 2, classes: [K]}]"
    assert main(["run", *TINY, "--data.scenario.stream.dataset", "glyphs:classes=4,train=3,test=2", "--model.strategy",
                 "SimpleCIL", "--data.scenario.requests", named, *LOGGED, str(tmp_path), "--run_dir",
                 str(tmp_path / "r")]) == 0  # fmt: skip
    told = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text())
    assert "K" not in str([v for k, v in told.items() if "requests" in k])


def test_closed_form_methods_move_along_the_axis(tmp_path):
    options = ["--model.strategy", "SimpleCIL", "--run_dir", str(tmp_path / "r")]
    assert main(["run", *TINY, *LOGGED, str(tmp_path), *options]) == 0
    assert [(row["event"], row["step"]) for row in rows(tmp_path)] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_logging_and_the_loss_that_is_watched_change_no_bit(logged, tmp_path):
    """With nothing held out the run with loggers equals the one without."""
    for name, options in (("plain", []), ("told", [*LOGGED, str(tmp_path)])):
        assert main(["run", *TINY, *options, "--run_dir", str(tmp_path / name)]) == 0
    one, two = (RunDirectory.open(tmp_path / name).state() for name in ("plain", "told"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_tensorboard_is_told_on_the_same_axis(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", str(tmp_path)]
    assert main(["run", *TINY, *options, "--run_dir", str(tmp_path / "r")]) == 0
    told = accumulator.EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"))
    told.Reload()
    assert {"loss", "lr", "accuracy/all", "stream/plasticity", "cost/seconds"} <= set(told.Tags()["scalars"])
    points = [e.step for e in told.Scalars("accuracy/all")]
    assert len(points) == 4
    assert points == sorted(set(points))


def test_a_callback_of_lightning_that_logs_stands_on_the_axis_too(tmp_path):
    options = [*LOGGED, str(tmp_path), "--trainer.callbacks", "LearningRateMonitor", "--run_dir", str(tmp_path / "r")]
    assert main(["run", *TINY, *options]) == 0
    found = [row["step"] for row in rows(tmp_path) if "lr-SGD" in row]
    assert found == sorted(found)
    assert found[-1] > 6


def test_what_a_trainer_says_of_its_plan_is_not_the_end_of_the_run(tmp_path):
    inner, now = CSVLogger(tmp_path), [5]
    logger = OnAxis(inner, lambda: now[0])
    logger.log_metrics({"a": 1.0}, step=0)
    now[0] = 9
    logger.finalize("success")
    logger.log_metrics({"a": 2.0}, step=0)
    inner.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == [5, 9]
    assert (logger.name, logger.version, logger.log_dir) == (inner.name, inner.version, inner.log_dir)


WATCHING = {
    "EarlyStopping on the loss": ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "loss"],
    "ReduceLROnPlateau of torch": ["--model.schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau"],
    "ReduceLROnPlateau of Lightning": [
        "--model.schedule", "pytorch_lightning.cli.ReduceLROnPlateau", "--model.schedule.monitor", "loss",
    ],
    "Timer": ["--trainer.callbacks", "Timer"],
    "clipping": ["--trainer.gradient_clip_val", "1.0"],
    "accumulation": ["--trainer.accumulate_grad_batches", "2"],
}  # fmt: skip


@pytest.mark.parametrize("name", WATCHING)
def test_what_watches_training_works(name, tmp_path):
    assert main(["run", *TINY, *WATCHING[name], "--run_dir", str(tmp_path / "r")]) == 0


def test_early_stopping_ends_a_plan_on_its_validation_loss(tmp_path):
    stop = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val_loss",
            "--trainer.callbacks.patience", "0", "--trainer.callbacks.min_delta", "1000"]  # fmt: skip
    options = ["--trainer.max_epochs", "9", "--data.validation", "0.3", "--run_dir", str(tmp_path / "r")]
    assert main(["run", *TINY, *stop, *options]) == 0
    first = json.loads((tmp_path / "r" / "results.json").read_text())["events"][0]
    assert first["steps"] == 2 * 2  # two epochs of two batches: six of eight samples are trained on


CANNOT = {
    "EarlyStopping": (
        ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val_loss"],
        "`loss`. A plan has a validation loss where data.validation is above 0",
    ),
    "ModelCheckpoint": (["--trainer.callbacks", "ModelCheckpoint"], "would keep what a forget request must remove"),
    "CSVLogger": (["--trainer.logger", "CSVLogger"], "needs save_dir; set it, as in --trainer.logger.save_dir ..."),
    "T_max": (["--model.schedule", "CosineAnnealingLR"], "clf: model.schedule needs T_max; set it, as in --model.sch"),
    "LearningRateMonitor": (["--trainer.callbacks", "LearningRateMonitor"], "Set trainer.logger to one"),
    "DeviceStatsMonitor": (["--trainer.callbacks", "DeviceStatsMonitor"], "Set trainer.logger to one"),
    "BatchSizeFinder": (["--trainer.callbacks", "BatchSizeFinder"], "cannot be used with dataloaders"),
    "LearningRateFinder": (["--trainer.callbacks", "LearningRateFinder"], "learning rate finder"),
    "BackboneFinetuning": (["--trainer.callbacks", "BackboneFinetuning"], "backbone"),
    "ModelPruning": (
        ["--trainer.callbacks", "ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured"],
        "frozen backbone would be changed",
    ),
    "callbacks[0].device": (
        ["--trainer.callbacks", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.01"],
        "config cannot hold trainer.callbacks[0].device (cpu)",
    ),
    "MLFlowLogger": (["--trainer.logger", "MLFlowLogger"], "needs a package that is not installed: `pip install"),
    "CSVLoger": (["--trainer.logger", "CSVLoger"], "Did you mean 'CSVLogger'?"),
    "EarlyStoping": (["--trainer.callbacks", "EarlyStoping"], "Did you mean 'EarlyStopping'?"),
    "ReduceLROnPlateau": (["--model.schedule", "ReduceLROnPlateau"], "give the full path"),
    "17": (["--trainer.precision", "17"], "trainer.precision cannot be 17"),
    "features_limit": (["--features_limit", "-1"], "features_limit must be above 0; found -1"),
    "threads": (["--threads", "0"], "threads must be from 1 to 1024; found 0"),
    "alpha": (["--model.strategy.alpha", "x"], "alpha must be a number (at least 0); found"),
}  # fmt: skip


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_work_is_refused_in_a_sentence_that_names_it(name, tmp_path, capsys):
    args, told = CANNOT[name]
    if name == "MLFlowLogger" and find_spec("mlflow"):
        pytest.skip("it is installed here")
    assert main(["run", *TINY, *args, "--run_dir", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_held_out_samples_are_a_share_of_every_class_and_none_is_lost(stream):
    data = stream[0].data
    train, held = held_out(data, 0.3, 7)
    assert sorted([*train.ids.tolist(), *held.ids.tolist()]) == sorted(data.ids.tolist())
    assert torch.bincount(held.labels).max() == torch.bincount(held.labels)[stream[0].classes[1]] == 3
    before = torch.random.get_rng_state()
    again = held_out(data, 0.3, 7)[1]
    assert torch.equal(again.ids, held.ids)
    assert not torch.equal(held_out(data, 0.3, 8)[1].ids, held.ids)
    assert torch.equal(torch.random.get_rng_state(), before)
    one = held_out(data.where(data.ids == data.ids[0]), 0.5, 7)
    assert [len(part) for part in one] == [1, 0]


def test_what_is_held_out_counts_as_read(world, stream):
    """A loss that may stop training leaves its mark on what was trained."""
    learner = world.learner(Finetune())
    loop.carry_out(learner, stream[0], world.make_trainer, 8, 0.3)
    (adapter,) = [a for a in artifacts(learner) if a.kind == "adapter"]
    assert artifact_samples(adapter, stream[:1]) == set(stream[0].data.ids.tolist())


class Memo:
    """Weights & Biases, MLflow and others as Lightning has them: an interface of four methods."""

    def __init__(self):
        self.metrics, self.settings, self.ended = [], [], []

    def log_metrics(self, metrics, step=None):
        assert all(isinstance(v, float) and re.fullmatch(r"[\w./ -]+", k) for k, v in metrics.items())
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params):
        assert all(isinstance(v, str | int | float | bool | None) for v in params.values())
        self.settings.append(params)

    def save(self):
        pass

    def finalize(self, status):
        self.ended.append(status)


def test_any_logger_is_told_the_end_once_and_how_it_came(tmp_path, monkeypatch, capsys):
    memo, build = Memo(), reopening.build
    assert main(["run", *TINY, "--model.strategy", "SimpleCIL", "--run_dir", str(tmp_path / "r")]) == 0
    monkeypatch.setattr(reopening, "build", lambda *a: dataclasses.replace(build(*a), loggers=(memo,)))
    assert main(["forget", str(tmp_path / "r"), "--classes", "0"]) == 0
    assert memo.ended == ["success"]
    assert len(memo.settings) == 1
    assert [(step, m["event"]) for step, m in memo.metrics] == [(5, 4.0)]
    monkeypatch.setattr(RunDirectory, "commit", lambda *a, **k: 1 / 0)
    assert main(["forget", str(tmp_path / "r"), "--classes", "2"]) == 3
    assert memo.ended == ["success", "failed"]


def test_settings_in_lists_have_names_too():
    told = flat({"trainer": {"callbacks": [{"class_path": "Timer", "init_args": {"duration": None}}], "devices": [0]}})
    assert told == {"trainer.callbacks[0]": "Timer", "trainer.callbacks[0].duration": None, "trainer.devices": "[0]"}


def test_a_fast_dev_run_is_marked_as_no_result(tmp_path, capsys):
    path, whole = tmp_path / "trial", tmp_path / "whole"
    quick = [*TINY, "--model.strategy", "SimpleCIL"]
    assert main(["run", *quick, "--trainer.fast_dev_run", "true", "--run_dir", str(path)]) == 0
    assert "these numbers are no result" in capsys.readouterr().out
    assert json.loads((path / "results.json").read_text())["trial"] == "trainer.fast_dev_run True"
    assert main(["verify", str(path)]) == 0
    assert "a trial with trainer.fast_dev_run True, no result" in capsys.readouterr().out
    assert main(["run", *quick, "--run_dir", str(whole)]) == 0
    capsys.readouterr()
    assert main(["report", str(whole), str(path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert told[1].startswith(str(whole))
    assert f"{path} is left out" in told[2]
    assert "trial" not in json.loads((whole / "results.json").read_text())

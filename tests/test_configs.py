"""Every config builds what it says, alone or on top of the quickstart, and those that can run take a step."""

import inspect
import json
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from rich.console import Console
from timm.models.vision_transformer import VisionTransformer

from cl_framework.cli import main
from cl_framework.configuration.experiment import build
from cl_framework.engine import loop
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.methods.compatibility import check_request
from cl_framework.streams.events import Step, forget_request
from cl_framework.streams.samples import Subset
from scripts import forgetting
from scripts.compare import read
from strategies.learning.mos import MOS

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
WHOLE = [QUICKSTART, *sorted(CONFIGS.glob("experiment/*.yaml"))]
FRAGMENTS = [
    path
    for part in ("backbone", "adapter", "strategy", "unlearner", "scenario", "trainer")
    for path in sorted(CONFIGS.glob(f"{part}/*.yaml"))
]
TEXT = [p for p in FRAGMENTS if p.stem in {"minilm", "clinc150", "clinc150_domains"}]  # tests/test_text.py has them
FORGETTING = CONFIGS / "compare" / "forgetting.yaml"
SPOKEN = sorted(CONFIGS.glob("compare/clinc150*.yaml"))  # tests/test_text.py has them too
BENCH = sorted(CONFIGS.glob("bench/*.yaml"))  # tests/test_bench.py has them
COMPARISONS = [path for path in sorted(CONFIGS.glob("compare/*.yaml")) if path not in (FORGETTING, *SPOKEN)]


FEW = "--data.scenario.stream.dataset"

SECOND = {  # plans of a second experience, for one config of each strategy that does more then than at first
    "ease_cifar100_inc5": 1,
    "inflora_cifar100_inc10": 1,
    "mos_cifar100_inc5": 2,
    "slca_cifar100_inc5": 2,
    "ssiat_cifar100_inc10": 2,
}


def first_of_each_strategy():
    """The first config of a published experiment for each strategy."""
    return list({p.stem.partition("_")[0]: p for p in reversed(WHOLE)}.values())


def cases(paths):
    """Every fragment and one experiment of each strategy; the other experiments differ in numbers, and are slow."""
    fast = {*FRAGMENTS, *first_of_each_strategy(), *(p for p in WHOLE if p.stem in SECOND)}
    return [pytest.param(p, id=named(p), marks=() if p in fast else pytest.mark.slow) for p in paths]


def named(path):
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A very small ViT stands in for any that timm would fetch (names and tags are still checked), in small chunks."""
    monkeypatch.setattr("cl_framework.models.frozen_passes.CHUNK", 8)

    def create(name, num_classes, **_):
        size = {"img_size": 224, "patch_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}
        return VisionTransformer(**size, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", create)


def args_for(path, *more):
    fragment = ["--config", str(QUICKSTART)] if path in FRAGMENTS else []
    here = ["--trainer.accelerator=cpu"] if path.stem.startswith("gpu") else []
    return [*fragment, "--config", str(path), *here, *more]


def built(path, *more):
    return build(args_for(path, *more), Console(quiet=True))


def silent(said, found):
    """The settings in ``said`` that did not make it into the resolved config ``found``."""
    if isinstance(said, dict):
        return {k: v for k in said if (v := silent(said[k], found[k]))}
    if isinstance(found, dict):  # a class by its short name
        return silent(said, found["class_path"])
    return None if found == said or str(found).endswith(f".{said}") else f"{said!r} became {found!r}"


def test_no_config_is_left_out():
    assert set(CONFIGS.rglob("*.yaml")) == {*WHOLE, *FRAGMENTS, *COMPARISONS, *SPOKEN, *BENCH, FORGETTING}
    assert len(FRAGMENTS) >= 15


@pytest.mark.parametrize("path", cases(p for p in [*WHOLE, *FRAGMENTS] if p not in TEXT))
def test_everything_a_config_says_is_what_is_built(path):
    said = yaml.safe_load(path.read_text())
    if path.stem.startswith("gpu"):
        assert said["trainer"].pop("accelerator") == "gpu"  # not here, perhaps
    if path == QUICKSTART:  # a list of requests, filled in with defaults
        said["data"]["scenario"]["init_args"].pop("requests")
    assert not silent(said, yaml.safe_load(built(path).config))


LEARNS = [p for p in [*WHOLE, *FRAGMENTS] if p.parent.name != "backbone" and p.stem != "gs_lora_4x20" and p not in TEXT]


@pytest.mark.parametrize("path", cases(LEARNS))
def test_a_config_takes_a_step_and_forgets_where_it_can(path):
    data = {
        "cifar100_b0inc5": [f"--config={CONFIGS}/backbone/vit_b16_in21k.yaml", "--data.scenario.dataset=digits"],
        "glyphs": ["--data.scenario.dataset=glyphs:classes=10,train=2,test=1"],
        "forget_sequence": [f"{FEW}=glyphs:classes=10,train=2,test=1", "--data.scenario.classes=1"],
        "sliding_window": [f"{FEW}=glyphs:classes=10,train=2,test=1", "--data.scenario.stream.base=5"],
    }.get(path.stem, [])
    if path.parent.name == "experiment":  # digits stand in for data that cannot be had here
        data = ["--data.scenario.dataset=digits", "--data.scenario.increment=5"]
        data += ["--model.strategy.expansion=64"] if path.stem.startswith("ranpac") else []
    unlearner = "DropAdapter" if path.stem in {"ease", "simplecil", "drop_adapter"} else "Retrain"
    trainer = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]
    experiment = built(path, *data, *trainer, f"--model.unlearner={unlearner}")
    learner, evaluator = experiment.learner, Evaluator()
    first, *later = steps = [small(s) for s in islice(experiment.scenario.steps(), 1 + (path.stem in SECOND))]
    _, cost = loop.carry_out_step(learner, first, experiment.make_trainer, evaluator, 8)
    still = path.stem.partition("_")[0] in {"simplecil", "fecam"}
    assert (cost.steps, cost.trainable_parameters > 0) == ((0, False) if still else (1, True))
    for step in later:
        measurements, cost = loop.carry_out_step(learner, step, experiment.make_trainer, evaluator, 8)
        assert cost.steps == SECOND[path.stem]
        assert set(measurements.hits) == {*first.event.classes, *step.event.classes}
    assert learner.model.classes == tuple(c for s in steps for c in s.event.classes)
    gone = first.event.classes[0]
    request = Step(forget_request("gone", [s.event for s in steps], classes=[gone]), first.exam.of([gone]))
    measurements, _ = loop.carry_out_step(learner, request, experiment.make_trainer, evaluator, 8)
    assert measurements.forget.accuracy_after == 0
    assert gone not in learner.model.classes


def test_gs_loras_protocol_begins_with_what_the_head_knows_and_forgets_80_of_100():
    path = CONFIGS / "scenario" / "gs_lora_4x20.yaml"
    known = "--data.scenario.stream.stream.dataset=glyphs:known=true,classes=100,train=1,test=2"
    experiment = built(path, known, "--model.unlearner=NegGradPlus")
    first, *requests = experiment.scenario.steps()
    assert [len(s.event.classes) for s in requests] == [20] * 4
    learner = experiment.learner
    check_request(learner.model, learner.strategy, learner.unlearner, requests[0].event)
    measurements, cost = loop.carry_out_step(learner, first, experiment.make_trainer, Evaluator(), 8)
    assert cost.steps == 0
    assert sum(right for right, _ in measurements.hits.values()) > 0.9 * 200


def small(step):
    """The same step with four samples of each class to learn and one to be examined on."""

    def few(samples, count):
        rows = [(samples.labels == c).nonzero()[:count, 0] for c in step.event.classes]
        return Subset(samples, torch.cat(rows))

    event = replace(step.event, data=few(step.event.data, 4), reference=few(step.event.reference, 4))
    return Step(event, few(step.exam, 1))


FIRST, *OTHERS = COMPARISONS


@pytest.mark.parametrize("path", [FIRST, *(pytest.param(p, marks=pytest.mark.slow) for p in OTHERS)], ids=named)
def test_every_method_of_a_comparison_builds_with_its_seeds(path):
    matrix = read(path)
    assert len(matrix.seeds) >= 3
    assert 0 < matrix.validation < 1
    cells = list(matrix.cells("digits", validation=True))
    assert len(cells) == len(matrix.seeds) * len(matrix.methods)
    for method, seed, args in cells[: len(matrix.methods)]:
        experiment = build(args, Console(quiet=True))
        stream = experiment.scenario.stream if matrix.forgets else experiment.scenario
        spelt = method.partition(", ")[0].replace("-", "").replace("++", "PlusPlus")
        assert type(experiment.learner.strategy).__name__ == spelt
        assert (experiment.seed, stream.order_seed) == (seed, seed)
        assert stream.validation == matrix.validation


def test_every_method_of_the_forgetting_comparison_takes_its_base():
    plan = forgetting.read(FORGETTING)
    assert len(plan.seeds) >= 3
    for method, told in plan.methods.items():
        configs = [json.dumps(c) for c in (plan.shared, plan.bases[told["base"]])]
        args = [word for c in configs for word in ("--config", c)]
        dataset = "--data.scenario.init_args.dataset=digits"
        experiment = build([*args, dataset, "--model.unlearner", json.dumps(told["unlearner"])], Console(quiet=True))
        learner, first = experiment.learner, next(experiment.scenario.steps()).event
        learner.model.meet(first)
        request = forget_request("f", [first], classes=first.classes[:2])
        assert check_request(learner.model, learner.strategy, learner.unlearner, request) is learner.unlearner, method
        assert type(learner.strategy).__name__ == told["base"]


def test_the_published_experiment_keeps_to_the_protocol():
    experiment = built(CONFIGS / "experiment" / "ease_cifar100_inc5.yaml", "--data.scenario.classes=100")
    scenario, optimizer = experiment.scenario, experiment.learner.optimizer([torch.nn.Parameter(torch.zeros(1))])
    scenario.class_names = list(map(str, range(100)))  # known without the data
    assert next(iter(scenario.groups())) == (68, 56, 78, 8, 23)
    assert len(scenario.groups()) == 20
    assert scenario.transform.name == "pilot-224"
    wanted = {"lr": 0.025, "momentum": 0.9, "weight_decay": 5e-4}
    assert {k: optimizer.param_groups[0][k] for k in wanted} == wanted
    trainer = experiment.make_trainer(None)
    assert (experiment.batch_size, trainer.max_epochs, experiment.learner.schedule) == (48, 20, "cosine")


def test_mos_is_aligned_with_the_weight_decay_of_its_training():
    """As released: the decay of a data set's config holds for both."""
    paths = [path for path in WHOLE if path.stem.startswith("mos_")]
    default = inspect.signature(MOS).parameters["align_decay"].default
    for path in paths:
        model = yaml.safe_load(path.read_text())["model"]
        settings = model["strategy"].get("init_args", {}) if isinstance(model["strategy"], dict) else {}
        assert settings.get("align_decay", default) == model["optimizer"]["init_args"]["weight_decay"], path
    assert len(paths) > 10


def test_the_quickstart_with_another_method_and_other_data_replaces_the_requests_too(tmp_path, capsys):
    for i in range(14):
        for split, count in (("train", 2), ("test", 1)):
            folder = tmp_path / "images" / split / f"class{i:02}"
            folder.mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (12, 12), (18 * i, 250 - 18 * i, 60 * (i % 4))).save(folder / f"{n}.png")
    line = (
        f"run --config {QUICKSTART} --run_dir {tmp_path / 'run'} --model.strategy SimpleCIL "
        "--data.scenario ClassIncremental --data.scenario.increment 12 "
        f"--data.scenario.dataset imagefolder:{tmp_path / 'images'}"
    )
    assert main.main(line.split()) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["strategy"] == "SimpleCIL"
    assert [(e["kind"], len(e["classes"])) for e in results["events"]] == [("learn", 12), ("learn", 2)]
    assert results["final_accuracy"] > 0.8
    assert re.search(r"clf forget \S*run --classes", capsys.readouterr().out.replace("\n", ""))

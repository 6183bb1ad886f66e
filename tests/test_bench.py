"""The bench compares the same learning done in two ways, in one process, and its configs build what they say."""

import json
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from timm.models.vision_transformer import VisionTransformer

from cl_framework.configuration.experiment import build
from scripts import bench, phases, scaling, startup
from scripts.flops import extraction, flops_per_image, shares
from scripts.plain_loop import PlainEase
from scripts.variants import VARIANTS

CPU = "configs/bench/cpu.yaml"
FEW = ["--data.scenario.init_args.classes=4", "--data.scenario.init_args.increment=2"]
SMALL = [CPU, *FEW, "--data.scenario.init_args.dataset=glyphs:classes=4,train=12,test=5", "--trainer.max_epochs=4"]


def experiment(*args):
    return build(["--config", *args], Console(quiet=True))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("tables") / "bench.md"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bench, "measured_extraction", lambda _: None)  # a second each
        assert bench.main([*SMALL, "--versus", "plain", "no feature store", "--out", str(out)]) == 0
    return json.loads(out.with_suffix(".json").read_text()), out.read_text()


def test_the_plain_loop_learns_the_same_and_passes_every_picture_through_every_adapter(compared):
    found, table = compared
    ours, plain, without = (found[name] for name in ("as it is", "plain", "no feature store"))
    assert ours["final_accuracy"] == without["final_accuracy"]
    assert plain["final_accuracy"] == pytest.approx(ours["final_accuracy"], abs=0.11)  # one or two of twenty
    assert plain["final_accuracy"] > 0.6
    images = {name: f["phases"]["evaluation"]["images"] for name, f in found.items() if name in table}
    assert images == {"as it is": 40, "plain": 50, "no feature store": 50}  # 20 x 2 pairs; 10 x 1 + 20 x 2
    assert plain["phases"]["train"]["images"] == ours["phases"]["train"]["images"] == 4 * 48
    assert plain["phases"]["prototypes"]["images"] == ours["phases"]["prototypes"]["images"] == 24 * 3


def test_every_variant_has_a_row_with_seconds_and_ratios(compared):
    found, table = compared
    (row,) = [line for line in table.splitlines() if line.startswith("| plain |")]
    assert [cell.strip() for cell in row.split("|")][8:10] == ["1.00", "1.00"]  # its ratios; seconds may be 1.00, too
    assert f"`scripts/bench {CPU} --data" in table
    assert "--versus plain 'no feature store'`" in table
    for f in found.values():
        if "phases" in f:
            assert f["total_seconds"] == pytest.approx(sum(p["seconds"] for p in f["phases"].values()))
            assert f["peak_memory_bytes"] >= f["phases"]["train"]["peak_memory_bytes"] > 0


def test_the_plain_loop_scores_as_the_strategy_does():
    """With the weights of one learner in both, every answer is the same."""
    ours, loop = experiment(*SMALL), PlainEase(experiment(*SMALL))
    learner = ours.learner
    steps = list(ours.scenario.steps())
    for task, step in enumerate(steps):
        learner.model.meet(step.event)
        learner.model.adapters.add(step.event.name)
        for p in learner.model.adapters.params(step.event.name):
            torch.nn.init.normal_(p, std=0.2)
        weights = learner.model.adapters.rewrites[step.event.name].state_dict()
        loop.task(task, step.event.classes)
        renamed = {f"{i}.{part}": weights[f"blocks/{i}/block_mlp.{part}"] for i in range(6) for part in
                   ("down.weight", "down.bias", "up.weight", "up.bias")}  # fmt: skip
        loop.adapters[-1].load_state_dict(renamed)
    loop.prototypes.clear()
    learner.requires_grad_(False).eval()
    for task, step in enumerate(steps):
        list(learner.strategy.learn(learner.model, step.event))
        whole, loop.adapters = loop.adapters, loop.adapters[: task + 1]
        loop.owner = {c: t for t, s in enumerate(steps[: task + 1]) for c in s.event.classes}
        loop.measure(step.event.classes)
        loop.adapters = whole
    right = [int((learner.answer(step.exam) == step.exam.labels).sum()) for step in steps]
    for loop.shared in (False, True):
        assert loop.examine() == sum(right) / 20


def test_a_stream_that_the_plain_loop_cannot_learn_or_an_unknown_variant_is_refused(capsys):
    assert bench.main([*SMALL, "--model.strategy=SimpleCIL", "--trainer.max_epochs=1", "--versus", "plain"]) == 2
    assert "The plain loop is EASE" in capsys.readouterr().err
    assert bench.main([*SMALL, "--versus", "plian"]) == 2
    assert "Did you mean 'plain'?" in capsys.readouterr().err


def test_without_a_config_the_machine_decides(monkeypatch):
    """The GPU's own config is built on this machine with a very small ViT, and compared with the plain loop."""
    small = {"img_size": 224, "patch_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    monkeypatch.setattr(timm, "create_model", lambda name, **_: VisionTransformer(**small))
    args = ["configs/bench/gpu.yaml", "--trainer.accelerator=cpu", "--trainer.max_epochs=1", *FEW,
            "--data.scenario.init_args.dataset=glyphs:classes=4,train=3,test=2"]  # fmt: skip
    ways = [VARIANTS[n] for n in ("pictures varied by Pillow", "plain attention", "single precision")]
    for variant in (None, *ways):
        found = bench.bench(["--config", *args], variant)
        assert found["phases"]["train"]["images"] == 12
    plain = PlainEase(experiment(*args), workers=1).run()
    assert plain["phases"]["evaluation"]["images"] == 4 + 16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bench.named(["all"]) == [*bench.LOOPS, *(n for n in VARIANTS if n != "bf16")]


def test_operations_are_counted_and_compared_with_matrix_products(monkeypatch):
    monkeypatch.setattr("scripts.flops.seconds", lambda call, device: call() is None or 0.5)
    monkeypatch.setattr("scripts.flops.matmul_rate", lambda *_: 1e9)
    model = experiment(*SMALL).learner.model
    blocks = 6 * (2 * 17 * 12 * 160**2 + 2 * 2 * 17 * 17 * 160)  # maps of attention and MLP, and attention's products
    stem = 2 * (256 * 32 * 27 + 256 * 64 * 288 + 64 * 128 * 576 + 16 * 192 * 1152 + 16 * 160 * 192)
    x = torch.rand(3, 3, 32, 32)
    assert flops_per_image(model, x[:1]) == blocks + stem
    found = extraction(model, x)
    assert found["images_per_second"] == 6
    assert found["share"] == pytest.approx(6 * (blocks + stem) / 1e9)
    monkeypatch.setattr("scripts.flops.processor_seconds", lambda call: call() is None or 0.5)
    for product, (share,) in shares(model, x, rounds=1).items():  # each takes as long as a pass: shares are of work
        n, k, m = (int(size) for size in product.removeprefix("the MLP's ").split(" x "))
        assert share == pytest.approx(3 * (blocks + stem) / (2 * n * k * m))


def test_all_of_a_forget_request_is_one_phase():
    watch = phases.Stopwatch()
    inner = watch("train", lambda: None)
    watch("forget", lambda: inner(), whole=True)()
    assert set(watch.seconds) == {"forget"}
    inner()
    assert set(watch.seconds) == {"forget", "train"}


@pytest.mark.slow
def test_scaling_draws_a_figure_and_a_table(tmp_path):
    assert scaling.main(["--tasks", "10", "--plain_tasks", "10", "--classes", "40", "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "tables" / "scaling.json").read_text())
    assert {name: len(s) for name, s in facts["seconds"].items()} == dict.fromkeys(facts["seconds"], 10)
    assert [row["classes"] for row in facts["memory"]["EASE"]] == list(range(4, 41, 4))
    assert [row["classes"] for row in facts["memory_by_tasks"]["EASE"]] == [2, 4, 6, 8, 10]
    stored = [row["stored_bytes"] for row in facts["memory"]["SimpleCIL"]]
    assert stored[-1] - stored[-2] == pytest.approx(4 * 768 * 4, rel=0.2)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "| SimpleCIL |" in (tmp_path / "tables" / "scaling.md").read_text()


def test_startup_times_every_line_against_the_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "took", lambda program: 2.0 if "cli.main" in program else 1.0)
    assert startup.main(["--times", "1", "--out", str(tmp_path)]) == 0
    assert "| `clf --help` | 2.00 | 2.00 |" in (tmp_path / "startup.md").read_text()


def test_startup_programs_do_what_they_say(tmp_path):
    every = startup.commands(tmp_path)
    assert startup.took(every["clf --help"]) > 0
    assert Path("configs/bench").is_dir()
    with pytest.raises(startup.UserError, match="There is no run"):
        startup.took(every["clf verify DIR"])

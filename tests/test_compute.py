"""Ways to compute: each is one line of a config, and none changes an answer beyond rounding."""

from contextlib import contextmanager

import pytest
import torch
from rich.console import Console
from torch._dynamo.utils import counters
from torch.nn.functional import one_hot

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.full import Full
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.prompt_pool import PromptPool
from cl_framework.adapters.ssf import SSF
from cl_framework.adapters.vpt import VPT
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.hf_attention import FEW, padding_only
from cl_framework.configuration.experiment import build
from cl_framework.engine import loop
from cl_framework.engine.learner import Learner
from cl_framework.engine.trainers import fresh_trainers
from cl_framework.errors import UserError
from cl_framework.functional.class_statistics import class_moments
from cl_framework.functional.ridge import RandomFeatures
from cl_framework.memory.feature_sums import Sums
from cl_framework.methods.parameter_importance import batches, fisher
from cl_framework.models.compute import Compute
from cl_framework.models.model import Model
from cl_framework.streams.lazy_inputs import Inputs
from scripts import bench_compute
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.o_lora import OLoRA
from strategies.learning.ranpac import RanPAC

ADAPTERS = {
    "bottleneck": Bottleneck(4, dropout=0.5),
    "lora": LoRA(4),
    "full": Full(),
    "ssf": SSF(),
    "vpt": VPT(3),
    "pool": PromptPool(4, 2, 1),
}


@pytest.fixture
def backbone(world):
    class Blocks(world.TinyTransformer):
        def blocks(self):
            return list(self.body.blocks)

    return Blocks


def model_of(backbone, adapter, compute=None, names="ab"):
    """A model with grown adapters, the same whatever computes it."""
    torch.manual_seed(0)
    model = Model(backbone, adapter)
    (compute or Compute()).prepare(model.backbone, model.adapters)
    for name in names:
        for p in model.adapters.add(name):
            torch.nn.init.normal_(p, std=0.1)
    model.requires_grad_(False)
    return model


def trained(model, name, x, between=lambda: None):
    """One training pass of one adapter: features and gradients; ``between`` happens before the backward pass."""
    params = model.adapters.params(name)
    for p in params:
        p.requires_grad_(True)
        p.grad = None
    model.train()
    z = model.features(x, name)
    between()
    z.square().sum().backward()
    model.requires_grad_(False)
    model.eval()
    return [z.detach(), *(p.grad for p in params)]


@contextmanager
def watched(module):
    """Collect, in order of the calls, whether each module below returned something that has a graph."""
    seen, hooks = [], []

    def returned(name):
        def hook(_, __, out):
            tensor = out[0] if isinstance(out, tuple) else out
            seen.append((name, tensor.grad_fn is not None))

        return hook

    for name, m in module.named_modules():
        hooks.append(m.register_forward_hook(returned(name)))
    yield seen
    for hook in hooks:
        hook.remove()


@contextmanager
def kept():
    """Count the bytes that a graph keeps for its backward pass, each storage once."""
    found = {}

    def pack(t):
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield lambda: sum(found.values())


# --- frozen parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [Bottleneck(4, dropout=0.0), LoRA(4)], ids=["bottleneck", "lora"])
def test_nothing_before_the_first_trained_site_has_a_graph(adapter, world):
    """Nor has a finished adapter that is in use before the one in training; gradients are those of a whole graph."""
    model = model_of(world.TinyTransformer(), adapter)
    x, params = world.noise(range(4), 2, "train").x, model.adapters.params("b")
    for p in params:
        p.requires_grad_(True)
    z = {}
    with watched(model) as seen, kept() as some:
        z["some"] = model.features(x, ("a", "b"))
        few = some()
    names = [name for name, _ in seen]
    first = next(i for i, name in enumerate(names) if name.startswith("adapters.rewrites.b."))
    assert not any(graph for _, graph in seen[:first])
    assert {"backbone.body.patch_embed", "backbone.body.blocks.0.norm1"} <= set(names[:first])
    assert any(name.startswith("adapters.rewrites.a.") for name in names[:first])
    assert all(graph for name, graph in seen[first:] if name.startswith("adapters.rewrites.b."))
    with kept() as all_of_it:
        z["all"] = model.features(x.clone().requires_grad_(True), ("a", "b"))
        assert few < all_of_it()
    one, two = (torch.autograd.grad(v.square().sum(), params) for v in z.values())
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("strategy", [EASE, OLoRA, Finetune])
def test_a_stream_trains_behind_a_frozen_front(strategy, world, stream):
    """By the engine, with the adapters of earlier experiences in use as the strategy wants them."""
    learner = Learner(world.TinyTransformer(), LoRA(4), strategy())
    with watched(learner.model.backbone) as seen:
        world.learn(learner, stream[:3])
    graphs = {name for name, graph in seen if graph}
    front = {"body.patch_embed", "body.patch_embed.proj", "body.blocks.0.norm1"}
    assert front <= {name for name, _ in seen}
    assert not front & graphs
    assert {"body.blocks.0.attn", "body.blocks.1"} <= graphs


# --- torch.compile ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield counters["stats"]
    torch._dynamo.reset()


@pytest.mark.parametrize(("kind", "backend"), [("bottleneck", "aot_eager"), ("vpt", "eager"), ("pool", "eager")])
def test_a_compiled_pass_is_the_same_pass(kind, backend, backbone, world, fresh):
    """Traced as for any compiler, but computed as ever: real kernels take minutes to make."""
    x, found = world.noise(range(8), 3, "test").x, []
    for compute in (Compute(), Compute(compile=backend)):
        model, out = model_of(backbone(), ADAPTERS[kind], compute), []
        for name in "ab":
            out += trained(model, name, x)
            with torch.no_grad():
                out.append(model.features(Inputs(lambda: x, torch.arange(len(x))), name))
        found.append(out)
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert not counters["graph_break"]


def test_the_gradients_of_all_classes_are_taken_at_once_from_a_compiled_model_too(world, fresh):
    found, samples = [], world.noise(range(3), 1, "test")
    for compute in (Compute(), Compute(compile="aot_eager")):
        model = model_of(world.TinyTransformer(), Bottleneck(4), compute)
        params = model.ready("a", (0, 1, 2))
        for p in params:
            p.requires_grad_(True)
        found.append(fisher(lambda x, m=model: m.scores(x, "a"), params, batches(samples, 2, model.device)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


SLOW = pytest.mark.slow  # each compiles for seconds; one method stands for the others


@pytest.mark.parametrize(
    ("strategy", "more"), [pytest.param(EASE, 0, marks=SLOW), (Finetune, 0), pytest.param(OLoRA, 2, marks=SLOW)]
)
def test_no_task_is_compiled_anew(strategy, more, world, fresh):
    """One graph for training, one for frozen passes through one adapter after the other, one for several at once.

    Only where each experience adds an adapter to what every pass goes through is that another shape, in both.
    """
    answers = []
    for compute in (Compute(), Compute(compile="eager")):
        torch.manual_seed(0)
        learner, past, count = Learner(world.TinyTransformer(), LoRA(4), strategy(), compute=compute), [], []
        for t in range(3):
            event = world.experience(t, 10 - t)  # the last batch has another size each time
            world.learn(learner, [event], past)
            past.append(event)
            learner.answer(event.reference)
            count.append(counters["stats"]["unique_graphs"])
        answers.append(world.scores(learner, world.noise(range(8), 2, "test")))
    assert count[0] == 2
    assert count[1] <= 3 + more
    assert count[2] - count[1] == more
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


# --- checkpointing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ADAPTERS)
def test_gradients_of_blocks_computed_again_are_the_same(kind, backbone, world):
    """Dropout included, and although other adapters are in use when the backward pass comes."""
    x, found, memory = world.noise(range(8), 3, "test").x, [], []
    for compute in (Compute(), Compute(checkpoint=True)):
        model, out = model_of(backbone(), ADAPTERS[kind], compute), []
        for name in "ab":
            other = "b" if name == "a" else "a"
            with kept() as count:
                out += trained(model, name, x, lambda m=model, o=other: setattr(m.adapters, "active", (o,)))
                memory.append(count())
        found.append(out)
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert all(less < more for less, more in zip(memory[2:], memory[:2], strict=True))


def test_blocks_are_computed_again_for_every_backward_pass(backbone, world):
    model = model_of(backbone(), Bottleneck(4, dropout=0.5), Compute(checkpoint=True))
    params = model.adapters.params("a")
    for p in params:
        p.requires_grad_(True)
    model.train()
    z = model.features(world.noise(range(4), 2, "test").x, "a").square().sum()
    one, two = torch.autograd.grad(z, params, retain_graph=True), torch.autograd.grad(z, params)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# --- attention and the optimiser --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fused", "plain"])
def test_attention_is_computed_as_asked_with_the_same_features(how):
    one, other = GlyphViT(), GlyphViT()
    assert not one.body.blocks[0].attn.fused_attn
    assert other.attend(how)
    assert {block.attn.fused_attn for block in other.body.blocks} == {how == "fused"}
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one(x), other(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [5, FEW])
def test_one_kernel_attends_as_the_products_do(tokens):
    """With padding hidden and tokens that an adapter added behind it seen."""
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, tokens + 2, 8, generator=rng) for _ in range(3))
    hidden = torch.zeros(3, 1, 1, tokens)
    hidden[1, ..., 3:] = torch.finfo(torch.float32).min
    layer = torch.nn.Identity()
    for mask in (None, hidden):
        one, weights = padding_only(layer, query, key, value, mask, how="plain")
        two, none = padding_only(layer, query, key, value, mask, how="fused")
        auto = padding_only(layer, query, key, value, mask)[0]
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
        assert (weights is not None, none) == (True, None)
        assert torch.equal(auto, one if tokens < FEW - 2 else two)


@pytest.mark.parametrize("fused", [None, True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_optimiser_steps_in_one_kernel(fused, kind, world, stream):
    made = []

    def optimizer(params):
        made.append(kind(params, lr=0.01))
        return made[-1]

    learner = Learner(
        world.TinyBackbone(), Bottleneck(4), Finetune(), optimizer=optimizer, compute=Compute(fused=fused)
    )
    world.learn(learner, stream[:1])
    assert [g["fused"] for g in made[0].param_groups] == [True if fused else None]
    assert any(p.any() for p in learner.model.adapters.params("shared"))


def test_what_the_optimiser_was_told_stays():
    p = torch.nn.Parameter(torch.ones(2))
    for told in ({"fused": False}, {"foreach": True}):
        optimizer = torch.optim.SGD([p], lr=0.1, **told)
        Compute(fused=True).fuse(optimizer)
        assert not optimizer.param_groups[0]["fused"]
    Compute(fused=True).fuse(torch.optim.RMSprop([p]))  # has no such kernel


# --- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_are_sums_in_double_precision_even_under_autocast():
    z, y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    sums = Sums()
    with torch.autocast("cpu", torch.bfloat16):
        sums.add(z, y)
        moments = class_moments(z, y, range(3))
    gram, q, _ = sums.of(range(3))
    assert gram.dtype == q.dtype == torch.float64
    assert torch.equal(gram, z.double().T @ z.double())
    torch.testing.assert_close(q, z.double().T @ one_hot(y).double())
    for c in range(3):
        torch.testing.assert_close(moments[c].covariance(), z[y == c].double().T.cov())


def test_a_run_in_bf16_sums_single_features_in_double(world, stream):
    learner = Learner(world.TinyTransformer(), Bottleneck(4), RanPAC(expansion=50, ridge=1.0))
    model, inside = learner.model, []
    model.frozen.precision = torch.bfloat16
    model.backbone.register_forward_hook(lambda *_: inside.append((model.phase, torch.is_autocast_enabled("cpu"))))
    mixed = fresh_trainers(lambda **k: world.BUILD(**{"precision": "bf16-mixed", **k}), None)
    for event in stream[:2]:
        loop.carry_out(learner, event, mixed, 8)
    assert set(inside) == {("train", True), ("statistics", True)}
    (space,) = model.adapters
    z, y = (torch.cat(v) for v in zip(*(model.embed(e.reference, space) for e in stream[:2]), strict=True))
    h = RandomFeatures(50, 0)(z)
    assert (z.dtype, h.dtype) == (torch.float32, torch.float64)  # features are single, what is made of them double
    gram, q, n = learner.strategy.sums.of(model.classes)
    assert gram.dtype == q.dtype == n.dtype == torch.float64
    torch.testing.assert_close(gram, h.double().T @ h.double(), rtol=1e-12, atol=1e-9)
    for i, c in enumerate(model.classes):
        torch.testing.assert_close(q[:, i], h[y == c].double().sum(0), rtol=1e-12, atol=1e-9)


# --- the section of a config ------------------------------------------------------------------------------------------


def test_every_way_is_one_line_of_a_config():
    args = ["--data.scenario=ClassIncremental", "--data.scenario.dataset=glyphs"]
    assert build(args, Console(quiet=True)).learner.compute == Compute()
    flags = ["attention=fused", "checkpoint=true", "fused=true"]
    experiment = build([*args, *(f"--model.compute.{flag}" for flag in flags)], Console(quiet=True))
    assert experiment.learner.compute == Compute("fused", False, True, True)
    assert all(block.attn.fused_attn for block in experiment.learner.model.backbone.body.blocks)
    assert build([*args, "--model.compute.compile=true"], Console(quiet=True)).learner.compute.compile is True


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (Compute(attention="fused"), "tiny has only one way to compute attention"),
        (Compute(checkpoint=True), "tiny has no blocks to compute again"),
        (Compute(checkpoint=True, compile=True), "choose compute.compile or .checkpoint"),
        (Compute(compile="inducktor"), "no compiler 'inducktor'.*inductor"),
    ],
)
def test_what_a_backbone_cannot_do_is_refused(compute, said, world):
    with pytest.raises(UserError, match=said):
        Learner(world.TinyBackbone(), Bottleneck(4), Finetune(), compute=compute)


def test_the_gain_of_each_way_is_a_ratio_within_one_process(capsys):
    args = ["--data.scenario=ClassIncremental", "--data.scenario.dataset=glyphs:classes=20", "--data.batch_size=8"]
    bench_compute.main(["--ways", "whole graph", "checkpointed blocks", "--repeats", "1", *args])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    kept = {row[0]: float(row[6]) for row in rows}
    assert list(kept) == ["as ever", "whole graph", "checkpointed blocks"]
    assert kept["checkpointed blocks"] < 0.5 < kept["as ever"] < kept["whole graph"]

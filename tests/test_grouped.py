"""Many adapters in one pass: the features of one by one, bit for bit in any company, and what is shared is shared."""

import json

import pytest
import torch
from torch import nn

from cl_framework.adapters.batched import PART, StackedRewrites, signature
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.full import Full
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.prompt_pool import PromptPool
from cl_framework.adapters.ssf import SSF
from cl_framework.adapters.vpt import VPT
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.feature_cache.store import CHUNK, FeatureStore
from cl_framework.models.batched_passes import Front, pack_chunks
from cl_framework.models.compute import Compute
from cl_framework.models.model import Model
from cl_framework.streams.lazy_inputs import Inputs
from scripts import routing

KINDS = {"bottleneck": lambda: Bottleneck(8), "lora": lambda: LoRA(4), "maps": lambda: LoRA(2, roles=["mlp_in"])}
NAMES = list("abcde")


def model_of(backbone, adapter, names=NAMES):
    torch.manual_seed(0)
    model = Model(backbone, adapter)
    for name in names:
        for p in model.adapters.add(name):
            nn.init.normal_(p, std=0.1)
    return model


def edited(model):
    for name in ("first edit", "second edit"):
        for p in model.adapters.push(name):
            nn.init.normal_(p, std=0.1)
    return model


def inputs(x, rows, key=None):
    return Inputs(lambda: x[rows], rows, key)


@pytest.fixture(params=["tiny", "tiny transformer", "glyph"])
def body(request, world):
    return {"tiny": world.TinyBackbone, "tiny transformer": world.TinyTransformer, "glyph": GlyphViT}[request.param]()


def pictures(body, n=70):
    """Pictures that fit; few for the large backbone, whose chunks are filled up to 64 anyway."""
    n = min(n, 5) if isinstance(body, GlyphViT) else n
    side = 32 if isinstance(body, GlyphViT) else 8
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def one_by_one(model, x, rows, names):
    model.frozen.batched = False
    found = torch.stack([model.features(inputs(x, rows), name) for name in names])
    model.frozen.batched = True
    return found


@pytest.mark.parametrize("stacked", [False, True], ids=["plain", "edited"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once_are_the_features_of_one_by_one(kind, stacked, body):
    model, x = model_of(body, KINDS[kind]()), pictures(body)
    rows = torch.arange(len(x))
    model = edited(model) if stacked else model
    choices = ["a", "b", "c", (), ("a", "c")]
    each = model.each(inputs(x, rows), choices)
    assert model.passes["statistics"] == len(choices) * len(x)
    torch.testing.assert_close(each, one_by_one(model, x, rows, choices), atol=1e-5, rtol=1e-5)
    assert torch.equal(each, torch.stack([model.features(inputs(x, rows), c) for c in choices])), "bits"
    assert min((a - b).abs().max() for i, a in enumerate(each) for b in each[:i]) > 1e-3, "the test is too easy"


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_depends_on_no_other_pair(kind, body, world):
    model, x = model_of(body, KINDS[kind]()), pictures(body)
    whole = model.each(inputs(x, torch.arange(len(x))), NAMES)
    rng = torch.Generator().manual_seed(2)
    for n, share in ((1, 1.0), (5, 0.1), (len(x) // 2, 0.5), (len(x), 0.9)):
        rows = torch.randperm(len(x), generator=rng)[:n]
        wanted = torch.rand(len(NAMES), n, generator=rng) <= share
        before = model.passes["statistics"]
        some = model.each(inputs(x, rows), NAMES, wanted)
        assert model.passes["statistics"] - before == int(wanted.sum())
        # On some processors the batched product of `maps` depends on what else is in it; others are equal bits.
        near = 1e-6 if kind == "maps" and isinstance(body, world.TinyTransformer) else 0.0
        torch.testing.assert_close(some[wanted], whole[:, rows][wanted], rtol=near, atol=near)
        assert not some[~wanted].any()


def test_the_store_holds_a_feature_for_each_pair_and_passes_are_made_for_the_others(world):
    model, x = model_of(world.TinyTransformer(), Bottleneck(8)), pictures(None, 20)
    fresh = model.each(inputs(x, torch.arange(20)), [*NAMES, ()])
    model.passes.clear()
    model.features(inputs(x, torch.arange(5, 12), "s"), "b")
    model.each(inputs(x, torch.arange(20), "s"), ["a", "b"], torch.arange(20).expand(2, -1) > 3)
    assert model.passes["statistics"] == 7 + 16 + 9
    assert torch.equal(model.each(inputs(x, torch.arange(20), "s"), [*NAMES, ()]), fresh)
    assert model.passes["statistics"] == 6 * 20, "each pair once"
    model.each(Inputs(lambda: pytest.fail("read"), torch.arange(20), "s"), [*NAMES, ()])
    model.store = FeatureStore(0)
    assert torch.equal(model.each(inputs(x, torch.arange(20), "s"), [*NAMES, ()]), fresh)


@pytest.mark.parametrize(
    "adapter",
    [SSF(), VPT(2), PromptPool(4, 2, 1), PromptPool(4, 2, 1, choice="batch"), Full()],
    ids=lambda a: type(a).__name__,
)
def test_adapters_of_other_kinds_go_one_by_one(adapter, world):
    model, x = model_of(world.TinyTransformer(), adapter), pictures(None, 9)
    assert all(signature(model.adapters.modules_of([name])) is None for name in NAMES)
    each = model.each(inputs(x, torch.arange(9)), NAMES)
    assert torch.equal(each, torch.stack([model.features(inputs(x, torch.arange(9)), name) for name in NAMES]))


def test_adapters_of_different_rank_go_with_their_like(world):
    model, x, rows = model_of(world.TinyTransformer(), LoRA(4), "abc"), pictures(None, 9), torch.arange(9)
    small = {k: v[:2] if k.endswith(".a") else v[:, :2] for k, v in model.adapters.rewrites["b"].state_dict().items()}
    model.adapters.hold("thin", small, ())
    names = ["a", "thin", "c"]
    each = model.each(inputs(x, rows), names)
    torch.testing.assert_close(each, one_by_one(model, x, rows, names), atol=1e-5, rtol=1e-5)


def test_a_pass_with_gradients_is_made_for_what_is_wanted(world):
    model, x = model_of(world.TinyBackbone(), LoRA(4)), pictures(None, 6)
    wanted = torch.tensor([[True] * 6, [False] * 6, [False, True, False, False, True, True]])
    z = model.each(x, ["a", "b", "c"], wanted)
    torch.testing.assert_close(z[2, wanted[2]], model.features(x, "c")[wanted[2]])
    assert not z[1].any()
    z.sum().backward()
    assert [any(p.grad is not None and p.grad.any() for p in model.adapters.params(n)) for n in "abc"] == [1, 0, 1]


# --- what is shared ---------------------------------------------------------------------------------------------------


def calls(model, modules, work):
    """How many rows each module computed in its own forward pass while ``work`` was done."""
    counts = dict.fromkeys(modules, 0)

    def counting(module, plain):
        def forward(x, *rest, **options):
            counts[module] += len(x)
            return plain(x, *rest, **options)

        return forward

    for module in modules:
        module.forward = counting(module, module.forward)
    work()
    for module in modules:
        del module.forward
    return list(counts.values())


@pytest.mark.parametrize("adapter", [Bottleneck(8), LoRA(4)], ids=["bottleneck", "lora"])
def test_what_comes_before_the_first_rewrite_is_computed_once_for_all(adapter, world):
    model, x = model_of(world.TinyTransformer(), adapter), pictures(None, 3 * CHUNK)
    first, second = model.backbone.body.blocks
    modules = [model.backbone.body.patch_embed, first.attn.qkv, first.mlp, second.attn.qkv]
    once = 3 * CHUNK
    model.each(inputs(x, torch.arange(once)), NAMES)  # the first pass tries out what comes first
    found = calls(model, modules, lambda: model.each(inputs(x, torch.arange(once)), NAMES))
    assert found == [once, once, once if isinstance(adapter, Bottleneck) else 5 * once, 5 * once]
    assert all("forward" not in vars(m) for m in model.modules()), "everything is put back"


def test_the_front_stops_where_the_first_adapter_begins(world):
    body = world.TinyTransformer()
    model = model_of(body, Bottleneck(8))
    front = Front(body, model.adapters)
    recorded = front.record([pictures(None, CHUNK)])
    block = body.body.blocks[0]
    assert set(recorded) == {body.body.patch_embed, block.attn, block.mlp}
    assert all(len(rows) == CHUNK for rows in recorded.values())
    assert not Front(body, Model(body, SSF()).adapters).record([pictures(None, CHUNK)]).keys() - {body.body.patch_embed}


def test_a_module_that_is_called_again_later_is_never_answered_for(world):
    class Twice(world.TinyBackbone):
        def forward(self, x):
            h = self.stem(x.flatten(1))
            h = h + self.query(h).sigmoid() * self.value(h)
            h = h + self.mlp(self.norm(h))
            return h + self.query(h)

    model, x, rows = model_of(Twice(), Bottleneck(8)), pictures(None), torch.arange(70)
    torch.testing.assert_close(model.each(inputs(x, rows), NAMES), one_by_one(model, x, rows, NAMES))
    assert model.backbone.query not in Front(model.backbone, model.adapters).record([x[:CHUNK]])


def test_chunks_are_filled_with_pairs_of_any_adapters(world):
    """Five samples of five adapters need 25 rows of which parts make 30, in one chunk rather than in five."""
    model, x = model_of(world.TinyTransformer(), Bottleneck(8)), pictures(None, 5)
    second = model.backbone.body.blocks[1].mlp
    model.each(inputs(x, torch.arange(5)), NAMES)
    assert calls(model, [second], lambda: model.each(inputs(x, torch.arange(5)), NAMES)) == [CHUNK]
    assert calls(model, [second], lambda: one_by_one(model, x, torch.arange(5), NAMES)) == [5 * CHUNK]


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_is_packed_once_beside_rows_of_its_own_adapter(seed):
    rng = torch.Generator().manual_seed(seed)
    wanted = torch.rand(7, 23, generator=rng) < 0.1 + 0.2 * seed
    seen = []
    for which, rows, real in pack_chunks(wanted, size=16):
        assert len(rows) == len(real) == 16 == PART * len(which)
        owner = which.repeat_interleave(PART)
        assert wanted[owner, rows].all(), "even what fills up is a pair"
        seen += zip(owner[real].tolist(), rows[real].tolist(), strict=True)
    assert sorted(seen) == [tuple(pair) for pair in wanted.nonzero().tolist()]


def test_parts_of_one_adapter_copy_no_weights(world):
    model = model_of(world.TinyBackbone(), LoRA(4))
    rewrite = next(iter(model.adapters.rewrites["a"].children()))
    alone = dict(StackedRewrites([rewrite] * 8).named_buffers())
    assert alone["a"].shape == (8, 4, 16)
    assert alone["a"].untyped_storage().data_ptr() == rewrite.a.untyped_storage().data_ptr()


def test_a_compiled_backbone_is_passed_through_whole(world):
    torch._dynamo.reset()
    model, x, rows = model_of(world.TinyTransformer(), Bottleneck(8)), pictures(None, 9), torch.arange(9)
    plain = model.each(inputs(x, rows), NAMES)
    Compute(compile="eager").prepare(model.backbone, model.adapters)
    assert torch.equal(model.each(inputs(x, rows), NAMES), plain)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model.each(inputs(x, rows), ["b", "d"], torch.rand(2, 9) < 0.7)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def test_the_script_says_what_routes_cost_and_save(tmp_path, capsys):
    few = ["--tasks", "2", "--classes", "4", "--train", "4", "--test", "2", "--epochs", "1", "--timed", "4"]
    assert routing.main([*few, "--nearest", "1", "--out", str(tmp_path / "routing.md")]) == 0
    rows = json.loads((tmp_path / "routing.json").read_text())["rows"]
    passes = {(r["settings"], r["route"]): r["passes"] for r in rows}
    assert passes == {("published", "all"): 2, ("published", "nearest:1"): 2, ("tuned", "all"): 3,
                      ("tuned", "nearest:1"): 2}  # fmt: skip
    assert all(r["lost"] == 0 and r["faster"] == 1 for r in rows if r["route"] == "all")
    assert (tmp_path / "routing.md").read_text() in capsys.readouterr().out
    assert routing.main(["--tasks", "3", "--classes", "4"]) == 2

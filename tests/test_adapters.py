"""Adapters on a real vision transformer: silent at birth, exact in what they compute, gone without a trace."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import layer_norm

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.ssf import SSF
from cl_framework.adapters.vpt import VPT
from cl_framework.backbones.timm import Timm
from cl_framework.backbones.timm_sites import transformer_sites
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.memory.erasure import Erasure
from cl_framework.methods.base import Plan
from strategies.learning.ease import EASE

KINDS = [
    pytest.param(Bottleneck(8), id="Bottleneck"),
    pytest.param(LoRA(4), id="LoRA"),
    pytest.param(LoRA(4, roles=("attention_out", "mlp_in", "mlp_out")), id="LoRA elsewhere"),
    pytest.param(SSF(), id="SSF"),
]
ALL = [*KINDS, pytest.param(VPT(2), id="VPT deep"), pytest.param(VPT(2, deep=False), id="VPT shallow")]
ROLES = {"query", "key", "value", "attention_out", "mlp_in", "mlp_out", "block_mlp"}
STREAM = {"block_in", "block_out", "attention_in"}


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return Timm("test_vit", pretrained=False, image_size=32)


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def stir(bank, name):
    """Stand in for training: move every weight of an adapter."""
    with torch.no_grad():
        for p in bank.params(name):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.3)


def test_every_block_offers_every_role(vit):
    sites = vit.sites()
    depth = len(vit.body.blocks)
    assert {s.role for s in sites.values()} == ROLES | STREAM | {"norm", "embedding", "tokens_out"}
    assert all(sum(s.role == role for s in sites.values()) == depth for role in ROLES | STREAM)
    assert sum(s.role == "norm" for s in sites.values()) == 2 * depth + 1
    assert len(sites) == len(ROLES | STREAM) * depth + 2 * depth + 3
    assert all(s.block == (int(k.split("/")[1]) if k.startswith("blocks/") else None) for k, s in sites.items())
    assert all(s.blocks == depth for s in sites.values())
    assert not any("." in name for name in sites)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_changes_nothing_at_birth_and_something_once_trained(kind, vit, images):
    plain = vit(images)
    bank = AdapterBank(vit, kind)
    bank.add("a")
    with bank.using("a"):
        assert torch.equal(vit(images), plain)
        stir(bank, "a")
        assert not torch.allclose(vit(images), plain, atol=1e-3)
    assert torch.equal(vit(images), plain)


@pytest.mark.parametrize("kind", ALL)
def test_dropping_an_adapter_restores_the_features_bit_for_bit(kind, vit, images):
    plain, bank = vit(images), AdapterBank(vit, kind)
    bank.add("a")
    stir(bank, "a")
    bank.active = ("a",)
    vit(images)
    bank.drop("a")
    assert bank.active == ()
    assert torch.equal(vit(images), plain)
    assert not list(bank.parameters())


@pytest.mark.parametrize("kind", ALL)
def test_adapters_do_not_disturb_each_other_and_compose_in_the_order_named(kind, vit, images):
    bank = AdapterBank(vit, kind)
    for name in ("a", "b"):
        bank.add(name)
        stir(bank, name)
    bank.eval()
    with bank.using("a"):
        alone = vit(images)
    with torch.no_grad():
        bank.params("b")[0].mul_(2)
    with bank.using("a"):
        assert torch.equal(vit(images), alone)
    with bank.using("a", "b"):
        assert not torch.allclose(vit(images), alone, atol=1e-4)


@pytest.mark.parametrize("roles", [("query",), ("key",), ("value",), ("query", "value")], ids="+".join)
def test_lora_on_a_fused_projection_changes_only_the_columns_of_its_roles(roles, vit, images):
    bank, qkv, seen = AdapterBank(vit, LoRA(4, roles=roles)), vit.body.blocks[0].attn.qkv, []
    qkv.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    bank.add("a")
    stir(bank, "a")
    vit(images)
    with bank.using("a"):
        vit(images)
    (given, plain), (again, changed) = seen
    assert torch.equal(given, again)
    for i, (role, width) in enumerate(zip(("query", "key", "value"), plain.chunk(3, -1), strict=True)):
        part = changed.chunk(3, -1)[i]
        if role in roles:
            low = bank.rewrites["a"][f"blocks/0/attn/{role}"]
            torch.testing.assert_close(part, width + given @ (low.b @ low.a).T)
            assert not torch.allclose(part, width, atol=1e-4)
        else:
            assert torch.equal(part, width)


def test_lora_scales_by_alpha_over_rank(vit):
    site = vit.sites()["blocks/0/mlp/mlp_in"]
    low = LoRA(4, alpha=6, roles=("mlp_in",)).build(site)
    torch.nn.init.normal_(low.b)
    given, out = torch.randn(2, site.width_in), torch.randn(2, site.width_out)
    torch.testing.assert_close(low(given, out), out + 1.5 * given @ low.a.T @ low.b.T)


def branch(h, rewrite, scale):
    """``scale * (W_up relu(W_dn h + b_dn) + b_up)``, one token and one unit at a time."""
    out = torch.zeros_like(h)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            reduced = [w @ h[i, j] + b for w, b in zip(rewrite.down.weight, rewrite.down.bias, strict=True)]
            hidden = [max(float(u), 0.0) for u in reduced]
            for d in range(h.shape[2]):
                out[i, j, d] = scale * (float(rewrite.up.weight[d] @ torch.tensor(hidden)) + float(rewrite.up.bias[d]))
    return out


@torch.no_grad()
@pytest.mark.parametrize("layer_scale", [None, 0.3], ids=["plain", "layer scale"])
def test_bottleneck_reads_the_residual_before_the_norm_and_adds_to_the_block(layer_scale):
    torch.manual_seed(0)
    body = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=0, init_values=layer_scale
    ).eval()

    class Wrapped:
        name, width = "tiny", 12

        def sites(self):
            return transformer_sites(body)

    bank = AdapterBank(Wrapped(), Bottleneck(3, scale=0.1))
    bank.add("a")
    stir(bank, "a")
    bank.eval()
    block, seen = body.blocks[1], []
    block.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with bank.using("a"):
        body(torch.randn(2, 3, 8, 8))
    x, out = seen[0]
    bank.active = ()
    h = x + block.ls1(block.attn(block.norm1(x)))
    normed = layer_norm(h, (12,), block.norm2.weight, block.norm2.bias, block.norm2.eps)
    expected = h + block.ls2(block.mlp(normed)) + branch(h, bank.rewrites["a"]["blocks/1/block_mlp"], 0.1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "count"), [(64, 1_189_632), (16, 304_320)])
def test_bottleneck_has_the_published_size_on_vit_b(width, count):
    with torch.device("meta"):
        bank = AdapterBank(Timm("vit_base_patch16_224", pretrained=False), Bottleneck(width))
        assert sum(p.numel() for p in bank.add("a")) == count == 12 * (2 * 768 * width + width + 768)


def test_lora_on_vit_b_has_two_factors_per_map():
    with torch.device("meta"):
        bank = AdapterBank(Timm("vit_base_patch16_224", pretrained=False), LoRA(8, roles=("key", "value")))
        assert sum(p.numel() for p in bank.add("a")) == 12 * 2 * 8 * (768 + 768)


def test_bottleneck_starts_as_published(vit):
    part = Bottleneck(8).build(vit.sites()["blocks/0/block_mlp"])
    assert part.down.weight.abs().max() <= vit.width**-0.5
    assert part.down.weight.std() > 0.3 * vit.width**-0.5
    assert not any(bool(p.any()) for p in (part.down.bias, part.up.weight, part.up.bias))
    assert (part.scale, part.dropout.p) == (0.1, 0.1)
    assert Bottleneck().width == 64


def test_dropout_acts_only_on_the_adapter_being_trained(vit, images):
    learner = Learner(vit, Bottleneck(8, dropout=0.5), EASE())
    bank = learner.model.adapters
    for name in ("old", "new"):
        bank.add(name)
        stir(bank, name)
    learner.begin(Plan(None, bank.params("new")))
    learner.train()

    def steady(name):
        with bank.using(name):
            return torch.equal(vit(images), vit(images))

    assert steady("old")
    assert not steady("new")
    learner.end()
    assert steady("new")
    learner.train()
    assert steady("new"), "nothing is trained outside a plan"


@pytest.mark.parametrize("kind", ALL)
def test_gradients_flow_to_the_adapter_in_use_alone(kind, vit, images):
    learner = Learner(vit, kind, EASE())
    bank = learner.model.adapters
    for name in ("old", "new"):
        bank.add(name)
        stir(bank, name)
    learner.begin(Plan(None, bank.params("new")))
    learner.model.features(images, "new").square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in bank.params("new"))
    mine = {id(p) for p in bank.params("new")}
    assert all(p.grad is None and not p.requires_grad for p in learner.parameters() if id(p) not in mine)


def test_the_bank_knows_its_adapters_by_name_oldest_first(vit):
    bank = AdapterBank(vit, LoRA(2))
    for name in ("b", "a", "c"):
        assert {id(p) for p in bank.add(name)} == {id(p) for p in bank.params(name)}
    assert list(bank) == ["b", "a", "c"]
    assert "a" in bank
    with pytest.raises(ValueError, match="'a' already exists"):
        bank.add("a")
    bank.drop("a")
    assert (list(bank), "a" in bank) == (["b", "c"], False)
    with pytest.raises(KeyError, match="No adapter 'a'"):
        bank.drop("a")
    bank.erase(Erasure(experiences=frozenset({"b"})))
    assert list(bank) == ["c"]
    bank.erase(Erasure(classes=frozenset({1})))
    assert list(bank) == ["c"]
    bank.erase(Erasure(everything=True))
    assert list(bank) == []


def test_a_failure_inside_a_block_leaves_the_bank_as_it_was(vit):
    bank = AdapterBank(vit, LoRA(2))
    bank.add("a")
    with pytest.raises(RuntimeError, match="oops"), bank.using("a"):
        raise RuntimeError("oops")
    assert bank.active == ()


def test_adapters_are_submodules_and_a_bank_grows_and_shrinks_to_what_it_loads(vit):
    one = AdapterBank(vit, LoRA(2))
    for name in ("task-0", "task-1"):
        one.add(name)
        stir(one, name)
    saved = one.state_dict()
    assert {k.split(".")[1] for k in saved} == {"task-0", "task-1"}
    assert sum(v.numel() for v in saved.values()) == sum(p.numel() for p in one.parameters())
    two = AdapterBank(Timm("test_vit", pretrained=False, image_size=32), LoRA(2))
    two.add("task-1")
    two.add("other")
    two.load_state_dict(saved)
    assert set(two) == {"task-0", "task-1"}
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in saved.items())


def test_asking_where_adapters_go_does_not_move_the_dice(vit):
    before = torch.get_rng_state()
    AdapterBank(vit, Bottleneck(8))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_adapter_without_a_place_is_refused(vit):
    with pytest.raises(UserError, match=r"LoRA finds no place in test_vit, which has .*query"):
        AdapterBank(vit, LoRA(2, roles=("block_mlp",))).add("a")

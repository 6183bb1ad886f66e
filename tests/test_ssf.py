"""Scales and shifts: silent at birth, and after training what a literal pass with them computes."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.ssf import SSF
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.timm import Timm
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from strategies.learning.ease import EASE


@pytest.fixture
def body(world):
    return world.TinyTransformer()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def stir(bank, name):
    with torch.no_grad():
        for i, p in enumerate(bank.params(name)):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.3)


def literal(vit, tuned, x):
    """A pass of a plain ViT written out, with ``gamma * out + delta`` behind every map, norm and the embedding."""

    def ssf(out, *names):
        gamma = torch.cat([tuned[n].gamma for n in names])
        delta = torch.cat([tuned[n].delta for n in names])
        return torch.stack([torch.stack([gamma * token + delta for token in sample]) for sample in out])

    def norm(x, m, name):
        return ssf(layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps), name)

    patches = ssf(vit.patch_embed.proj(x).flatten(2).transpose(1, 2), "patch_embed/embedding")
    h = torch.cat([vit.cls_token.expand(len(x), -1, -1), patches], 1) + vit.pos_embed
    for i, block in enumerate(vit.blocks):
        attn, at = block.attn, f"blocks/{i}"
        z = norm(h, block.norm1, f"{at}/norm1/norm")
        maps = z @ attn.qkv.weight.T + attn.qkv.bias
        maps = ssf(maps, *(f"{at}/attn/{role}" for role in ("query", "key", "value")))
        q, k, v = maps.reshape(len(x), -1, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / attn.head_dim**0.5).softmax(-1)
        z = (weights @ v).transpose(1, 2).flatten(2) @ attn.proj.weight.T + attn.proj.bias
        h = h + ssf(z, f"{at}/attn/attention_out")
        z = norm(h, block.norm2, f"{at}/norm2/norm")
        z = gelu(ssf(z @ block.mlp.fc1.weight.T + block.mlp.fc1.bias, f"{at}/mlp/mlp_in"))
        h = h + ssf(z @ block.mlp.fc2.weight.T + block.mlp.fc2.bias, f"{at}/mlp/mlp_out")
    return norm(h, vit.norm, "norm/norm")[:, 0]


@torch.no_grad()
def test_it_computes_what_a_literal_pass_with_scales_and_shifts_computes(body, images):
    bank = AdapterBank(body, SSF())
    bank.add("a")
    torch.testing.assert_close(body(images), literal(body.body, bank.rewrites["a"], images), atol=1e-4, rtol=1e-4)
    stir(bank, "a")
    with bank.using("a"):
        tuned = body(images)
    torch.testing.assert_close(tuned, literal(body.body, bank.rewrites["a"], images), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(tuned, body(images), atol=1e-2)


@torch.no_grad()
def test_it_changes_nothing_at_birth_unless_it_starts_as_released(body, images):
    plain, silent, released = body(images), AdapterBank(body, SSF()), AdapterBank(body, SSF("released"))
    silent.add("a")
    released.add("a")
    with silent.using("a"):
        assert torch.equal(body(images), plain)
    with released.using("a"):
        assert not torch.allclose(body(images), plain, atol=1e-3)
    assert (silent.adapter.neutral, released.adapter.neutral) == (True, False)
    gamma = torch.cat([r.gamma for r in released.rewrites["a"].children()])
    delta = torch.cat([r.delta for r in released.rewrites["a"].children()])
    for found, mean in ((gamma, 1.0), (delta, 0.0)):
        assert abs(found.mean() - mean) < 2e-3
        assert abs(found.std() - 0.02) < 2e-3


def test_it_has_a_pair_for_every_output_channel_on_vit_b():
    with torch.device("meta"):
        bank = AdapterBank(Timm("vit_base_patch16_224", pretrained=False), SSF())
        per_block = 3 * 768 + 768 + 4 * 768 + 768 + 2 * 768  # qkv, proj, fc1, fc2, two norms
        assert sum(p.numel() for p in bank.add("a")) == 2 * (12 * per_block + 768 + 768)


def test_the_embedded_backbone_has_all_its_places():
    roles = {s.role for s in AdapterBank(GlyphViT(pretrained=False), SSF()).sites.values()}
    assert roles == {"query", "key", "value", "attention_out", "mlp_in", "mlp_out", "norm", "embedding"}


@torch.no_grad()
def test_maps_and_norms_that_no_role_names_are_scaled_too():
    vit = Timm("test_vit3", pretrained=False)
    bank, seen = AdapterBank(vit, SSF()), []
    bank.add("a")
    pooling = next(k for k, s in bank.sites.items() if s.role == "linear")
    bank.sites[pooling].module.register_forward_hook(lambda _, __, out: seen.append(out))
    bank.rewrites["a"][pooling].gamma.mul_(2)
    x = torch.randn(1, 3, vit.image_size, vit.image_size)
    vit(x)
    with bank.using("a"):
        vit(x)
    torch.testing.assert_close(seen[1], 2 * seen[0])


def test_training_moves_its_own_parameters_and_leaves_the_base_alone(body, world, stream):
    learner = Learner(body, SSF(), EASE())
    before = body.digest()
    world.learn(learner, stream[:2])
    assert body.digest() == before
    assert list(learner.model.adapters) == ["task-0", "task-1"]
    for name in learner.model.adapters:
        assert all(bool((r.gamma != 1).any()) for r in learner.model.adapters.rewrites[name].children())
    assert world.scores(learner, stream[1].reference).shape == (20, 4)


def test_two_in_use_are_applied_one_after_the_other(body, images):
    bank = AdapterBank(body, SSF())
    for name, by in (("a", 2.0), ("b", 3.0)):
        bank.add(name)
        with torch.no_grad():
            bank.rewrites[name]["norm/norm"].gamma.fill_(by)
            bank.rewrites[name]["norm/norm"].delta.fill_(1.0)
    plain = body(images)
    with bank.using("a", "b"):
        torch.testing.assert_close(body(images), 3 * (2 * plain + 1) + 1)


def test_another_start_is_refused():
    with pytest.raises(UserError, match="'ones'"):
        SSF("ones")

"""Full fine-tuning as corrections: the function, the gradients and the steps of a backbone that is trained."""

import copy

import pytest
import torch
from torch import nn

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.full import Full
from cl_framework.adapters.low_rank import Correction
from cl_framework.backbones.timm import Timm
from strategies.learning.finetune import Finetune

FIXED = {"cls_token", "pos_embed"}


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Timm("vit_tiny_patch16_224", pretrained=False, image_size=32)


def tuned(backbone, bank):
    """The same backbone with the corrections written into its weights."""
    other = copy.deepcopy(backbone.body)
    for hooks in (m for module in other.modules() for m in (module._forward_hooks, module._forward_pre_hooks)):
        hooks.clear()
    twins = dict(zip(backbone.body.modules(), other.modules(), strict=True))
    with torch.no_grad():
        for key, rewrite in bank.rewrites["full"].items():
            site = bank.sites[key]
            module = twins[site.module]
            module = module.proj if site.role == "embedding" else module
            rows = slice(None) if site.columns is None else site.columns
            module.weight[rows] += rewrite.weight
            module.bias[rows] += rewrite.bias
    return other


def test_it_is_the_backbone_with_every_weight_moved(backbone):
    bank, x = AdapterBank(backbone, Full()), torch.rand(2, 3, 32, 32)
    before = backbone(x)
    params = bank.add("full")
    with bank.using("full"):
        assert torch.equal(backbone(x), before)
        for p in params:
            nn.init.normal_(p, std=0.05)
        torch.testing.assert_close(backbone(x), tuned(backbone, bank)(x), atol=1e-4, rtol=1e-4)
    assert torch.equal(backbone(x), before)
    tunable = sum(p.numel() for n, p in backbone.body.named_parameters() if n not in FIXED)
    assert sum(p.numel() for p in params) == tunable


def test_its_steps_are_those_of_fine_tuning(backbone):
    bank, x = AdapterBank(backbone, Full()), torch.rand(3, 3, 32, 32)
    params = bank.add("full")
    other = tuned(backbone, bank)
    weights = [p.requires_grad_() for n, p in other.named_parameters() if n not in FIXED]
    for forward, trained in ((other, weights), (backbone, params)):
        optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
        with bank.using("full"):
            for _ in range(3):
                optimizer.zero_grad()
                forward(x).square().sum().backward()
                optimizer.step()
    with torch.no_grad():
        before = backbone(x)
        with bank.using("full"):
            torch.testing.assert_close(backbone(x), other(x), atol=1e-4, rtol=1e-4)
            assert (backbone(x) - before).abs().max() > 0.1


def test_roles_choose_what_is_tuned(backbone):
    assert {s.role for s in AdapterBank(backbone, Full(["norm"])).sites.values()} == {"norm"}
    everything = {s.role for s in AdapterBank(backbone, Full()).sites.values()}
    assert everything == {
        "query", "key", "value", "attention_out", "mlp_in", "mlp_out", "norm", "embedding",
    }  # fmt: skip


def test_maps_are_corrections_that_can_be_scaled(world):
    bank = AdapterBank(world.TinyBackbone(), Full(["mlp_in"]))
    (weight, bias) = bank.add("full")
    (rewrite,) = bank.rewrites["full"].values()
    assert isinstance(rewrite, Correction)
    nn.init.ones_(weight)
    rewrite.rescale(-2.0)
    assert rewrite.delta() is weight
    assert (weight.unique().tolist(), bias.unique().tolist()) == ([-2.0], [0.0])


def test_finetuning_learns_through_it_and_leaves_the_backbone_alone(world, stream):
    learner = world.learner(Finetune(), adapter=Full())
    before = learner.model.backbone.digest()
    world.learn(learner, stream[:1])
    assert (learner.answer(stream[0].data) == stream[0].data.labels).float().mean() > 0.8
    assert learner.model.backbone.digest() == before

"""Families of timm: names, sizes, and where adapters join. The weights are random and the models tiny."""

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.eva import Eva
from timm.models.xcit import Xcit

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones import timm_names
from cl_framework.backbones.base import Backbone
from cl_framework.backbones.timm import Timm
from cl_framework.backbones.timm_sites import reached, scales_in_modules, transformer_sites
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Rows
from strategies.learning.acil import ACIL
from strategies.learning.fecam import FeCAM
from strategies.learning.finetune import Finetune
from strategies.learning.ranpac import RanPAC
from strategies.learning.simplecil import SimpleCIL
from strategies.learning.slda import SLDA

SIZE = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("vit_base_patch16_224_in21k", "vit_base_patch16_224.augreg_in21k"),
        ("vit_base_patch16_224_augreg_in21k", "vit_base_patch16_224.augreg_in21k"),
        ("vit_large_patch16_224_in21k", "vit_large_patch16_224.augreg_in21k"),
        ("vit_base_patch16_224_dino", "vit_base_patch16_224.dino"),
        ("deit_base_distilled_patch16_224_fb_in1k", "deit_base_distilled_patch16_224.fb_in1k"),
        ("timm/vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.augreg_in21k"),
        ("vit_base_patch16_224", "vit_base_patch16_224"),
        ("nonesuch", "nonesuch"),
    ],
)
def test_old_names_stand_for_their_tag(old, now):
    assert timm_names.current(old) == now


def test_every_old_name_of_timms_table_leads_to_one_that_it_knows():
    for old, now in timm.models.get_deprecated_models().items():
        if now is not None:
            assert timm_names.current(old) == now
            assert timm.is_model(now.partition(".")[0])


def test_what_an_old_name_is_now_is_said_and_recorded(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **o: create("test_vit", **o))
    backbone = Timm("vit_base_patch16_224_in21k", image_size=32)
    assert backbone.name == "vit_base_patch16_224.augreg_in21k"
    assert backbone.notes == ("vit_base_patch16_224_in21k is called vit_base_patch16_224.augreg_in21k in timm now.",)
    assert Timm("vit_base_patch16_224.augreg_in21k", image_size=32).notes == ()


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet10t", 48), ("convnext_atto", 64), ("test_efficientnet", 40), ("mobilenetv3_small_050", 33)],
)
def test_a_convolutional_network_takes_the_size_it_is_told(name, size):
    backbone, x = Timm(name, pretrained=False, image_size=size), torch.rand(2, 3, size, size)
    assert backbone(x).shape == (2, backbone.width)
    with pytest.raises(UserError, match=f"sees {size} x {size} pictures and was given {size} x {size + 1}"):
        backbone(torch.rand(1, 3, size, size + 1))


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [("vit_tiny_patch16_224", 8, ""), ("maxvit_pico_rw_256", 100, ""), ("levit_128s", 3, "")],
)
def test_a_size_that_a_family_does_not_take_is_refused_in_a_sentence(name, size, reason):
    with pytest.raises(UserError, match=rf"{name} does not take pictures of {size} x {size} \(.+\); leave image_size"):
        Timm(name, pretrained=False, image_size=size)


def test_a_window_model_takes_another_size():
    backbone = Timm("swin_tiny_patch4_window7_224", pretrained=False, image_size=64)
    assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, backbone.width)


# --- adapters after a layer scale that is a parameter ---------------------------------------------------------------

SCALED = {
    "beit": lambda: Beit(**SIZE, init_values=0.3, use_abs_pos_emb=False, use_rel_pos_bias=True),
    "dinov3": lambda: Eva(**SIZE, init_values=0.3, use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=2),
    "rope": lambda: Eva(**SIZE, init_values=0.3, use_rot_pos_emb=True, qkv_fused=False),
    "rope_unscaled": lambda: Eva(**SIZE, use_rot_pos_emb=True),
    "swiglu": lambda: Eva(**SIZE, init_values=0.3, swiglu_mlp=True, scale_mlp=True),
    "cait": lambda: Cait(**SIZE, init_values=0.3),
    "xcit": lambda: Xcit(**SIZE, eta=0.3),
}


@pytest.fixture(params=SCALED)
def scaled(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SCALED[request.param]().eval()


def test_an_adapter_joins_after_a_scale_that_is_a_parameter(scaled):
    """What an adapter adds in the last block is what the block then returns more, unscaled."""
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        plain = scaled(x)
        scales_in_modules(scaled)
        assert torch.equal(scaled(x), plain)
    sites = {k: s for k, s in reached(scaled, transformer_sites(scaled), 32).items() if s.role == "block_mlp"}
    assert {k.rpartition("/")[0] for k in sites} >= {"blocks/0", "blocks/1"}
    out, added = {}, torch.randn(16)
    last = sites["blocks/1/block_mlp"]
    watch = scaled.blocks[1].register_forward_hook(lambda _, __, y: out.update({len(out): y}))
    with torch.no_grad():
        scaled(x)
        join = last.module.register_forward_hook(lambda _, __, y: y + added)
        scaled(x)
    watch.remove()
    join.remove()
    torch.testing.assert_close(out[1] - out[0], added.expand_as(out[0]), atol=1e-5, rtol=1e-4)


class Whole(Backbone):
    """A backbone of any body."""

    name, width = "whole", 16

    def __init__(self, body):
        super().__init__()
        self.body, self.found = body, reached(body, transformer_sites(body), 32)

    def forward(self, x):
        return self.body(x)

    def sites(self):
        return self.found


@pytest.mark.parametrize("name", ["beit", "dinov3", "rope", "cait"])
def test_bottlenecks_read_the_residual_and_change_features(name):
    torch.manual_seed(0)
    body = SCALED[name]().eval()
    scales_in_modules(body)

    backbone, x = Whole(body), torch.rand(2, 3, 32, 32)
    plain = backbone(x)
    bank = AdapterBank(backbone, Bottleneck(4))
    for p in bank.add("a"):
        torch.nn.init.normal_(p, std=0.5)
    with bank.using("a"):
        assert not torch.allclose(backbone(x), plain, atol=1e-3)
    assert torch.equal(backbone(x), plain)


# --- strategies that train nothing ----------------------------------------------------------------------------------

STILL = {
    "SimpleCIL": SimpleCIL,
    "SLDA": SLDA,
    "ACIL": lambda: ACIL(32, ridge=1e-6),
    "RanPAC": lambda: RanPAC(tune=False, expansion=32),
    "FeCAM": FeCAM,
}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return Timm("resnet10t", pretrained=False, image_size=32)


@pytest.mark.parametrize("name", STILL)
def test_strategies_that_train_nothing_need_no_place_for_an_adapter(name, resnet, world):
    rng, labels = torch.Generator().manual_seed(0), torch.arange(12) % 2
    x = 0.2 * torch.rand(12, 3, 32, 32, generator=rng) + 0.7 * labels.view(-1, 1, 1, 1)
    pictures = Rows(x, labels, torch.arange(12))
    learner = Learner(resnet, Bottleneck(4), STILL[name]())
    world.learn(learner, [Experience("two", (0, 1), pictures, pictures)])
    assert torch.equal(learner.answer(pictures), labels)


def test_others_are_refused_where_there_is_no_place_and_told_what_would_do(resnet):
    for strategy in (Finetune(), RanPAC(), FeCAM(tune=True)):
        with pytest.raises(
            UserError, match=r"Bottleneck finds no place in resnet10t, .* trains none such as SimpleCIL"
        ):
            Learner(resnet, Bottleneck(4), strategy)

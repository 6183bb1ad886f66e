"""Backbones: frozen, checked, named exactly, and never the reason for a surprise on the network."""

import shutil
import socket
import time

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from cl_framework.backbones import glyph
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.timm import Timm
from cl_framework.errors import UserError

MB = 2**20


@pytest.fixture(scope="module")
def glyphs():
    return GlyphViT()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A machine with empty caches where any attempt to go online is an error of its own."""

    def online(*_, **__):
        pytest.fail("went online without being asked to")

    monkeypatch.setattr(socket, "getaddrinfo", online)
    monkeypatch.setattr(socket.socket, "connect", online)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_the_embedded_weights_are_small_and_frozen(glyphs):
    assert sum(p.numel() for p in glyphs.parameters()) <= 3_000_000
    assert (glyph.FILES / "glyph_vit.safetensors").stat().st_size <= 12 * MB
    assert not any(p.requires_grad for p in glyphs.parameters())


def test_the_embedded_backbone_maps_pictures_to_features_one_by_one(glyphs):
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        z = glyphs(x)
        torch.testing.assert_close(z[1:2], glyphs(x[1:2]), atol=1e-4, rtol=1e-4)
    assert z.shape == (5, glyphs.width)
    assert GlyphViT().digest() == glyphs.digest() != GlyphViT(pretrained=False).digest()


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_weights_are_refused(damage, tmp_path, monkeypatch):
    for name in ("glyph_vit.json", "glyph_vit.safetensors"):
        shutil.copy(glyph.FILES / name, tmp_path)
    monkeypatch.setattr(glyph, "FILES", tmp_path)
    glyph.checked_weights("glyph_vit")
    path = tmp_path / "glyph_vit.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(UserError, match=r"glyph_vit\.safetensors is damaged"):
        GlyphViT()


def test_the_head_of_pretraining_is_kept_beside_the_weights(glyphs):
    head = glyphs.classifier()
    assert head["weight"].shape == (2102, glyphs.width)
    assert head["sigma"].shape == ()
    assert head["sigma"] > 1
    assert GlyphViT(pretrained=False).classifier() is None


def test_a_damaged_head_of_pretraining_is_refused(glyphs, tmp_path, monkeypatch):
    shutil.copy(glyph.FILES / "glyph_vit.json", tmp_path)
    content = bytearray((glyph.FILES / "glyph_vit_head.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "glyph_vit_head.safetensors").write_bytes(content)
    monkeypatch.setattr(glyph, "FILES", tmp_path)
    with pytest.raises(UserError, match=r"glyph_vit_head\.safetensors is damaged"):
        glyphs.classifier()


@pytest.fixture
def stored(monkeypatch):
    """Stand in for the weights of a tag: the same small ViT every time, with five classes unless told otherwise."""

    def create(name, pretrained, num_classes=5, checkpoint_path="", img_size=32):
        torch.manual_seed(0)
        body = VisionTransformer(img_size, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=5)
        if num_classes == 0:
            body.reset_classifier(0)
        return body.eval()

    monkeypatch.setattr(timm, "create_model", create)


@pytest.mark.usefixtures("stored")
def test_the_classifier_of_a_tag_scores_features_as_the_whole_model_does():
    backbone, x = Timm("test_vit.r160_in1k", image_size=32), torch.rand(3, 3, 32, 32)
    head = backbone.classifier()
    whole = timm.create_model("test_vit.r160_in1k", pretrained=True)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x) @ head["weight"].T + head["bias"], whole(x))


@pytest.mark.usefixtures("stored")
def test_weights_without_a_head_have_no_classifier_and_only_a_linear_one_counts(tmp_path, monkeypatch):
    assert Timm("test_vit", pretrained=False, image_size=32).classifier() is None
    torch.save(timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict(), tmp_path / "mine.pth")
    assert Timm("test_vit", weights=str(tmp_path / "mine.pth"), image_size=32).classifier() is None
    assert Timm("test_vit.r160_in1k", image_size=32).classifier() is not None
    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: whole(*a, **{**k, "num_classes": 0}))
    assert Timm("test_vit.r160_in1k", image_size=32).classifier() is None


def test_a_picture_of_the_wrong_size_is_refused(glyphs):
    with pytest.raises(UserError, match="32 x 32 pictures and was given 28 x 30"):
        glyphs(torch.rand(1, 3, 28, 30))


def test_a_bare_name_is_refused_and_its_tags_are_listed():
    with pytest.raises(UserError, match="names no weights") as refusal:
        Timm("vit_base_patch16_224")
    assert "vit_base_patch16_224.augreg_in21k" in str(refusal.value)


def test_an_unknown_tag_is_refused_and_the_tags_are_listed():
    with pytest.raises(UserError, match=r"no weights tagged 'augreg_in21'.*vit_base_patch16_224\.augreg_in21k"):
        Timm("vit_base_patch16_224.augreg_in21")


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match=r"Did you mean 'vit_base_patch16_224'\?"):
        Timm("vit_base_patch16_244.augreg_in21k")


def test_absent_weights_are_reported_at_once_without_going_online(no_network):
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"are not on this machine.*download: true"):
        Timm("vit_tiny_patch16_224.augreg_in21k")
    assert time.perf_counter() - began < 5


def test_a_backbone_stays_in_evaluation_mode(glyphs):
    for backbone in (glyphs, Timm("test_vit", pretrained=False, image_size=32)):
        backbone.train()
        assert not any(m.training for m in backbone.modules())
        torch.nn.ModuleList([backbone]).train()
        assert not any(m.training for m in backbone.modules())


def test_a_digest_sees_every_weight():
    torch.manual_seed(0)
    backbone = Timm("test_vit", pretrained=False, image_size=32)
    before = backbone.digest()
    assert backbone.digest() == before
    with torch.no_grad():
        backbone.body.norm.bias[0] += 1e-7
    assert backbone.digest() != before

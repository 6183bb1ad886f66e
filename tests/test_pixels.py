"""Normalisation of pictures follows the weights, can be set, is part of the digest, off where published."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from rich.console import Console

from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.pixels import Pixels, as_folder_says, pixels
from cl_framework.backbones.timm import Timm
from cl_framework.cli import query, run
from cl_framework.configuration.experiment import build
from cl_framework.errors import UserError

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
EXPERIMENTS = sorted((Path(__file__).parents[1] / "configs" / "experiment").glob("*.yaml"))


@pytest.fixture
def tagged(monkeypatch):
    """Stand in for the weights of a tag, which would have to be fetched: the same random ones every time."""
    create = timm.create_model

    def seeded(name, pretrained=False, **options):
        torch.manual_seed(0)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", seeded)


@pytest.mark.usefixtures("tagged")
def test_a_tag_brings_its_own_normalisation_and_settings_replace_it():
    name = "vit_base_patch16_clip_224.openai"  # whose red, green and blue differ
    own = timm.get_pretrained_cfg(name)
    backbone = Timm("test_vit.r160_in1k", image_size=32)
    z = backbone.body((X - 0.5) / 0.5)
    assert torch.equal(backbone(X), z)
    assert backbone.inputs == "pixels: mean 0.5, std 0.5; as timm records for these weights"
    assert pixels(Pixels(own.mean, own.std, ""), None, None).told.startswith("pixels: mean (0.4815, 0.4578, 0.4082)")
    for mean, std in ((0.2, 0.3), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])):
        m, s = (torch.tensor(v).expand(3).view(3, 1, 1) for v in (mean, std))
        assert torch.equal(Timm("test_vit.r160_in1k", image_size=32, mean=mean, std=std)(X), backbone.body((X - m) / s))
    assert torch.equal(Timm("test_vit.r160_in1k", image_size=32, std=1)(X), backbone.body(X - 0.5))


@pytest.mark.usefixtures("tagged")
def test_mean_0_and_std_1_leave_features_and_digest_as_they_were_without_normalisation():
    plain = Timm("test_vit.r160_in1k", image_size=32, mean=0, std=1)
    assert torch.equal(plain(X), plain.body(X))
    assert not list(plain.pixels.buffers())
    assert (
        len({plain.digest(), *(Timm("test_vit.r160_in1k", image_size=32, mean=m).digest() for m in (None, 0.4))}) == 3
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_published_settings_do_not_normalise(path):
    said = yaml.safe_load(path.read_text())["model"]["backbone"]["init_args"]
    assert (said["mean"], said["std"]) == (0, 1)


def test_random_and_embedded_weights_keep_what_they_had():
    random = Timm("test_vit", pretrained=False, image_size=32)
    assert torch.equal(random(X), random.body(X))
    assert random.inputs == "pixels: from 0 to 1, not normalised (mean 0, std 1); random weights were trained with none"
    assert torch.equal(GlyphViT()(X), GlyphViT().body(X))
    assert GlyphViT().inputs == "pixels: mean 0.5, std 1; part of the embedded network"


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], None, r"mean is \[0\.5, 0\.5\]; give one finite number, or three"),
        (float("nan"), None, "mean is nan; give one finite number"),
        (None, 0, "std is 0, by which nothing can be divided"),
        (None, [1, -1, 1], "std is -1, by which"),
    ],
)
def test_numbers_that_normalise_nothing_are_refused(mean, std, message):
    with pytest.raises(UserError, match=message):
        Timm("test_vit", pretrained=False, image_size=32, mean=mean, std=std)


HALF = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    ("name", "content", "mean", "std"),
    [
        ("preprocessor_config.json", {"do_normalize": True, "rescale_factor": 1 / 255, **HALF}, 0.5, 0.25),
        ("preprocessor_config.json", {**HALF, "rescale_factor": 1 / 127.5}, 0.25, 0.125),  # pixels from 0 to 2
        ("preprocessor_config.json", {**HALF, "do_rescale": False}, 0.5 / 255, 0.25 / 255),
        ("preprocessor_config.json", {"do_normalize": False, **HALF}, 0, 1),
        ("processor_config.json", {"image_processor": HALF}, 0.5, 0.25),
        ("other.json", HALF, 0, 1),
    ],
)
def test_a_folder_is_followed(name, content, mean, std, tmp_path):
    (tmp_path / name).write_text(json.dumps(content))
    torch.testing.assert_close(as_folder_says(tmp_path)(X), (X - mean) / std)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config\.json is not valid JSON .*set `mean` and `std`"):
        as_folder_says(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1, 2]}')
    with pytest.raises(UserError, match=r"image_mean in .* give one finite number, or three"):
        as_folder_says(tmp_path)


@pytest.mark.usefixtures("tagged")
def test_plan_prints_it_and_flags_set_it(capsys, monkeypatch):
    monkeypatch.setattr(run, "CONSOLE", Console(width=200))
    args = [
        "--model.backbone=timm:test_vit.r160_in1k", "--model.backbone.image_size=32", "--model.strategy=SimpleCIL",
        "--data.scenario=ClassIncremental", "--data.scenario.dataset=glyphs:classes=4,train=2,test=1",
    ]  # fmt: skip
    query.plan(args)
    assert "pixels: mean 0.5, std 0.5; as timm records for these weights" in capsys.readouterr().out
    query.plan([*args, "--model.backbone.mean=[0.1,0.2,0.3]", "--model.backbone.std=1"])
    assert "pixels: mean (0.1, 0.2, 0.3), std 1; as set" in capsys.readouterr().out
    config = yaml.safe_load(build([*args, "--model.backbone.mean=0", "--model.backbone.std=1"], Console()).config)
    assert config["model"]["backbone"]["init_args"]["std"] == 1

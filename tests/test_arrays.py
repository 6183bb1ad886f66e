"""Arrays and tensors of pictures: plain layouts are taken, others refused with what was found and what is expected."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

import cl_framework as clf
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.huggingface import HuggingFace
from cl_framework.backbones.timm import Timm
from cl_framework.cli.main import main
from cl_framework.errors import UserError
from cl_framework.models.model import Model
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.streams.samples import Rows
from scenarios.class_incremental import ClassIncremental
from scenarios.data.source import Pictures, Sentences, Source
from scenarios.data.torchvision_sets import images_and_labels
from scenarios.from_avalanche import picture_tensor
from strategies.learning import SimpleCIL

COLOUR = torch.randint(0, 256, (4, 3, 8, 6), dtype=torch.uint8)
GREY = COLOUR[:, :1]
TAKEN = {
    "first": (COLOUR, COLOUR),
    "last": (COLOUR.movedim(1, -1).numpy(), COLOUR),
    "grey last": (GREY.movedim(1, -1), GREY),
    "grey without": (GREY[:, 0].numpy(), GREY),
    "floats last": (COLOUR.movedim(1, -1) / 255, COLOUR / 255),
    "doubles": ((COLOUR / 255).double().numpy(), (COLOUR / 255).double()),
    "rounding above white": (torch.full((4, 3, 8, 6), 1 + 1e-6), torch.full((4, 3, 8, 6), 1 + 1e-6)),
}
REFUSED = {
    "floats to 255": (COLOUR.float().fill_(254), r"float32 \(4, 3, 8, 6\) and run from 254 to 254; divide by 255; exp"),
    "normalised": (COLOUR / 255 - 0.9, "leave normalising to the backbone"),
    "whole numbers": (COLOUR.long().fill_(7), r"int64 \(4, 3, 8, 6\) from 7 to 7; give \(n, 3, H, W\)"),
    "wide": (COLOUR.numpy().astype(np.uint16), "uint16 .* as uint8 or floats from 0 to 1"),
    "truth": (COLOUR.bool(), "bool .*; give"),
    "objects": (COLOUR.numpy().astype(object), "are object; give"),
    "four channels": (torch.zeros(4, 8, 6, 4, dtype=torch.uint8), r"uint8 \(4, 8, 6, 4\); give"),
    "flat": (torch.zeros(4, 144), r"float32 \(4, 144\); give"),
    "two ways": (torch.zeros(4, 3, 8, 3), "of which both the first and the last could be channels"),
    "no pixels": (torch.zeros(4, 3, 0, 6), r"\(4, 3, 0, 6\); give"),
    "one picture": (COLOUR[0], "3 train images have 4 labels"),
    "infinity": (torch.full((4, 3, 8, 6), torch.inf), "NaN or infinity in train samples 0, 1, 2, 3; fix"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_plain_layouts_are_taken(case):
    given, expected = TAKEN[case]
    found = Pictures("train", given, [0] * 4)
    assert torch.equal(found.images, expected)
    read = found.take(torch.tensor([2, 0])).read(torch.tensor([1]))
    assert torch.equal(read, expected[:1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("case", REFUSED)
def test_what_leaves_open_what_it_is_is_refused(case):
    given, why = REFUSED[case]
    with pytest.raises(UserError, match=why) as caught:
        Pictures("train", given, [0] * 4)
    assert str(caught.value).count(". ") == 0, "one sentence"


def test_taking_rows_does_not_look_at_pixels_again(monkeypatch):
    found = Pictures("train", COLOUR / 255, [0, 0, 1, 1])
    monkeypatch.setattr("scenarios.data.source.upright", None)
    part = found.take(torch.tensor([3]))
    assert part.content != found.content
    assert part.ids.tolist() == [3]


def test_a_torchvision_set_is_taken_in_any_plain_layout():
    held = type("Held", (), {})()
    held.targets, held.data = [0] * 4, COLOUR.movedim(1, -1).numpy()
    assert torch.equal(images_and_labels("train", held).images, COLOUR)
    held.data = COLOUR.float().numpy() * 0 + 9
    with pytest.raises(UserError, match=r"train images are float32 .* divide by 255"):
        images_and_labels("train", held)


@pytest.mark.skipif(find_spec("avalanche") is None, reason="the extra `avalanche` is not installed")
def test_pictures_of_a_benchmark_are_looked_at_when_they_are_read():
    assert torch.equal(picture_tensor(COLOUR[0].movedim(0, -1).numpy()), COLOUR[0])
    assert picture_tensor(GREY[0]).shape == (3, 8, 6)
    for given in (torch.zeros(4, 8, 6), COLOUR[0].float() * 0 + 200, [1, 2]):
        with pytest.raises(UserError, match="benchmark"):
            picture_tensor(given)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    ViTModel(config).save_pretrained(folder)
    return [GlyphViT(), Timm("test_vit", pretrained=False, image_size=32), HuggingFace(str(folder))]


WRONG = {
    "channels last": (torch.rand(2, 32, 32, 3), r"move the channels with x.movedim\(-1, 1\)"),
    "one channel": (torch.rand(2, 1, 32, 32), "repeat grey with"),
    "four channels": (torch.rand(2, 4, 32, 32), "give three channels"),
    "one picture": (torch.rand(3, 32, 32), r"was given float32 \(3, 32, 32\); stack pictures"),
    "bytes": (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "uint8 .*; divide by 255"),
    "larger": (torch.rand(2, 3, 64, 64), "sees 32 x 32 pictures and was given 64 x 64"),
}
OUT = {
    "to 255": (torch.full((2, 3, 32, 32), 200.0), "run from 200 to 200; divide by 255"),
    "normalised": (torch.linspace(-2, 2, 6144).view(2, 3, 32, 32), "run from -2 to 2; scale to 0 to 1"),
    "NaN": (torch.full((2, 3, 32, 32), torch.nan), r"NaN or infinity in pictures \[0, 1\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_backbones_refuse_another_layout_type_or_size(case, backbones):
    given, why = WRONG[case]
    for backbone in backbones:
        with pytest.raises(UserError, match=why):
            backbone(given)


@pytest.mark.parametrize("case", OUT)
def test_frozen_passes_refuse_numbers_out_of_range(case, backbones):
    given, why = OUT[case]
    for backbone in backbones:
        model = Model(backbone, Bottleneck(2))
        with pytest.raises(UserError, match=why):
            model.features(Inputs(lambda: given, torch.arange(2)), ())


def test_an_input_of_every_experience_is_looked_at_before_anything_is_made(tmp_path, monkeypatch, capsys):
    steps = ClassIncremental.steps

    def odd(self):
        for i, step in enumerate(steps(self)):
            rows = step.event.reference
            x = rows[range(len(rows))].x * (255 if i == 2 else 1)
            yield replace(step, event=replace(step.event, reference=Rows(x, rows.labels, rows.ids)))

    monkeypatch.setattr(ClassIncremental, "steps", odd)
    stream = ["--config", "configs/quickstart.yaml", "--data.scenario", "ClassIncremental"]
    for verb in ("plan", "run"):
        assert main([verb, *stream, "--run_dir", str(tmp_path / "run")]) == 2
        assert "glyph_vit takes pixels from 0 to 1, and those it was given run from 0 to" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0.9, 1.9], r"train labels hold 0\.8\d+, which is no whole number|train labels hold 0\.9"),
        (np.array([0.0, np.nan]), "hold nan, which is no whole number"),
        (np.eye(2), r"have the shape \(2, 2\).*labels\.argmax\(1\)"),
        (["cat", "dog"], "are no numbers; give one whole number for each sample"),
        (np.array(["cat", "dog"]), "are no numbers"),
    ],
)
def test_labels_that_are_no_whole_numbers_are_refused(labels, why):
    for make in (lambda: Pictures("train", COLOUR[:2], labels), lambda: Sentences("train", ["a", "b"], labels)):
        with pytest.raises(UserError, match=why):
            make()


def test_a_source_of_arrays_is_a_stream_in_memory(tmp_path):
    train, test = (Pictures(s, COLOUR, np.array([0.0, 1.0, 0.0, 1.0])) for s in ("train", "test"))
    stream = ClassIncremental(Source("mine", train, test, ("cat", "dog")), increment=1)
    learner = clf.Learner(GlyphViT(), Bottleneck(2), SimpleCIL())
    assert set(clf.run(learner, stream).class_names.values()) == {"cat", "dog"}
    with pytest.raises(UserError, match="leave out run_dir"):
        clf.run(clf.Learner(GlyphViT(), Bottleneck(2), SimpleCIL()), stream, run_dir=tmp_path / "run")


@pytest.mark.parametrize("given", [COLOUR, (COLOUR, [0, 1]), None])
def test_what_is_no_data_source_is_refused_with_what_is(given):
    with pytest.raises(UserError, match=r"takes the name of data.*or a Source"):
        ClassIncremental(given)

"""The embedded backbone deserves its name: frozen, it tells apart characters it never saw."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones.glyph import FILES, GlyphViT, checked_weights
from cl_framework.engine.learner import Learner
from cl_framework.engine.loop import carry_out
from scenarios.class_incremental import ClassIncremental
from strategies.learning.simplecil import SimpleCIL

OMNIGLOT = Path("../shared/data/omniglot/images_background_small1.zip")


def simplecil(scenario):
    """Return the final accuracy of SimpleCIL over all exams of a scenario."""
    learner = Learner(GlyphViT(), Bottleneck(4), SimpleCIL())
    exams = []
    for step in scenario.steps():
        carry_out(learner, step.event, None, 1)
        exams.append(step.exam)
    right = sum(int((learner.answer(e) == e.labels).sum()) for e in exams)
    return right / sum(map(len, exams))


def test_simplecil_on_digits_beats_pixels_by_far():
    assert simplecil(ClassIncremental("digits")) >= 0.96  # raw pixels give 0.90


@pytest.mark.skipif(not OMNIGLOT.exists(), reason="the Omniglot archive is not beside this checkout")
def test_simplecil_on_omniglot_handwriting(tmp_path):
    spec = importlib.util.spec_from_file_location("prepare", "scripts/prepare_omniglot.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    prepare.prepare(OMNIGLOT, tmp_path)
    assert simplecil(ClassIncremental(f"imagefolder:{tmp_path}", increment=12)) >= 0.85  # raw pixels give 0.31


def test_weights_are_small_and_the_head_fits_them():
    model = GlyphViT()
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert (FILES / "glyph_vit.safetensors").stat().st_size <= 12 * 10**6
    head = checked_weights("glyph_vit_head")
    classes = json.loads((FILES / "glyph_vit.json").read_text())["classes"]
    assert head["weight"].shape == (classes, model.width)
    assert torch.allclose(head["weight"], normalize(head["weight"], dim=-1), atol=1e-5)

"""Which ways of forgetting a refusal names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cl_framework.errors import UserError
from cl_framework.methods.compatibility import able
from cl_framework.streams.events import forget
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.unlearning.drop_adapter import DropAdapter

ALONE = """
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.methods.compatibility import able
from cl_framework.models.model import Model
from strategies.learning.finetune import Finetune
from cl_framework.streams.events import Experience, forget
from cl_framework.streams.samples import Rows
import torch
data = Rows(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), torch.arange(4))
past = [Experience("a", (0, 1), data, data)]
print(able(Model(GlyphViT(), Bottleneck(4)), Finetune(), forget("f", past, classes=[0])))
"""


def test_what_is_installed_is_named_whether_or_not_it_was_imported():
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True).stdout
    assert "'Retrain'" in told
    assert "'GSLoRA'" in told


def test_without_samples_that_all_would_need_the_refusal_says_who_could_with_them(world, stream):
    learner = world.learn(world.learner(EASE(), DropAdapter()), stream[:2])
    request = forget("f", stream[:2], classes=[2], missing=["retain"])
    assert able(learner.model, learner.strategy, request) == []
    told = r"None can without the samples to retain; with them at hand, these can: DropAdapter, Retrain\."
    with pytest.raises(UserError, match=told):
        learner.able(request)


def test_where_nothing_at_all_can_the_refusal_says_so(world, stream, monkeypatch):
    monkeypatch.setattr("cl_framework.settings.discovery.installed", lambda kind: [DropAdapter])
    learner = world.learn(world.learner(Finetune(), DropAdapter()), stream[:2])
    with pytest.raises(UserError, match=r"None of those that `clf list unlearners` names can\."):
        learner.able(forget("f", stream[:2], classes=[2]))


def test_adapters_stand_in_the_order_of_their_experiences_after_one_was_made_again(world, stream):
    request = forget("f", stream[:3], classes=[stream[1].classes[0]])
    learner = world.learn(world.learner(EASE(), DropAdapter()), [*stream[:3], request])
    assert list(learner.model.adapters) == ["task-0", "task-1", "task-2"]
    assert list(learner.model.adapters.origins) == ["task-0", "task-1", "task-2"]

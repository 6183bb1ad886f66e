"""Which ways of forgetting a refusal names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from cl_framework.errors import UserError
from cl_framework.methods.compatibility import capable, check_request
from cl_framework.streams.events import forget_request
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.gs_lora import GSLoRA

ALONE = """
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.methods.compatibility import capable
from cl_framework.models.model import Model
from strategies.learning.finetune import Finetune
from cl_framework.streams.events import Experience, forget_request
from cl_framework.streams.samples import Rows
import torch
data = Rows(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), torch.arange(4))
past = [Experience("a", (0, 1), data, data)]
print(capable(Model(GlyphViT(), Bottleneck(4)), Finetune(), forget_request("f", past, classes=[0])))
"""


def test_what_is_installed_is_named_whether_or_not_it_was_imported():
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True).stdout
    assert "'Retrain'" in told
    assert "'GSLoRA'" in told


def test_without_samples_that_all_would_need_the_refusal_says_who_could_with_them(world, stream):
    learner = world.learn(world.learner(EASE(), DropAdapter()), stream[:2])
    request = forget_request("f", stream[:2], classes=[2], missing=["retain"])
    assert capable(learner.model, learner.strategy, request) == []
    told = r"None can without the samples to retain; with them at hand, these can: DropAdapter, Retrain\."
    with pytest.raises(UserError, match=told):
        check_request(learner.model, learner.strategy, learner.unlearner, request)


def test_where_nothing_at_all_can_the_refusal_says_so(world, stream, monkeypatch):
    monkeypatch.setattr("cl_framework.settings.discovery.installed", lambda kind: [DropAdapter])
    learner = world.learn(world.learner(Finetune(), DropAdapter()), stream[:2])
    with pytest.raises(UserError, match=r"None of those that `clf list unlearners` names can\."):
        check_request(learner.model, learner.strategy, learner.unlearner, forget_request("f", stream[:2], classes=[2]))


PLUGIN = '''
"""Unlearners of somebody else."""
from cl_framework.methods.base import Unlearner

class Strong(Unlearner):
    """Edit as hard as it is told to."""
    exact = True
    def __init__(self, strength, *, until):
        super().__init__()
        self.strength = strength * until
    def forget(self, model, strategy, event):
        return ()

class Faulty(Unlearner):
    """Break when asked."""
    exact = True
    def objection(self, model, strategy, event):
        raise TypeError("not to be seen")
    def forget(self, model, strategy, event):
        return ()

class Unsuited(Unlearner):
    """Edit in place, which state that is kept apart rules out."""
    def __init__(self, strength):
        super().__init__()
    def forget(self, model, strategy, event):
        return ()
'''


@pytest.fixture
def plugin(install_package):
    """Install a package with unlearners: one that has required settings, one that breaks, one that is ruled out."""
    (install_package("somebody.unlearners") / "own.py").write_text(PLUGIN)


def test_a_refusal_names_an_installed_unlearner_with_required_settings_without_building_it(plugin, world, stream):
    learner = world.learn(world.learner(EASE(), GSLoRA()), stream[:2])
    with pytest.raises(UserError) as caught:
        check_request(learner.model, learner.strategy, learner.unlearner, forget_request("f", stream[:2], classes=[2]))
    told = "Use one that can: DropAdapter, Retrain, perhaps Strong (set strength and until)."
    assert str(caught.value).endswith(told)
    assert not {"Faulty", "Unsuited"} & set(re.findall(r"\w+", str(caught.value)))


def test_it_is_named_also_where_no_other_unlearner_can(plugin, world, stream):
    learner = world.learn(world.learner(EASE(), DropAdapter()), stream[:2])
    request = forget_request("f", stream[:2], classes=[2], missing=["retain"])
    with pytest.raises(UserError, match=r"Use one that can: perhaps Strong \(set strength and until\)\.$"):
        check_request(learner.model, learner.strategy, learner.unlearner, request)


def test_adapters_stand_in_the_order_of_their_experiences_after_one_was_made_again(world, stream):
    request = forget_request("f", stream[:3], classes=[stream[1].classes[0]])
    learner = world.learn(world.learner(EASE(), DropAdapter()), [*stream[:3], request])
    assert list(learner.model.adapters) == ["task-0", "task-1", "task-2"]
    assert list(learner.model.adapters.origins) == ["task-0", "task-1", "task-2"]

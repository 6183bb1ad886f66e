"""What a receipt says of a request."""

from __future__ import annotations

import pytest

from cl_framework.adapters.lora import LoRA
from cl_framework.engine import loop
from cl_framework.errors import UserError
from cl_framework.methods.compatibility import check_request
from cl_framework.runs.receipt_contents import residual
from cl_framework.settings.ranges import settings_of
from cl_framework.streams.events import forget_request
from strategies.learning.acil import ACIL
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.gs_lora import GSLoRA
from strategies.unlearning.neg_grad import NegGradPlus
from strategies.unlearning.retrain import Retrain
from strategies.unlearning.subtract import Subtract
from strategies.unlearning.unsir import UNSIR


def test_settings_are_told_also_where_an_unlearner_keeps_them_together():
    told = settings_of(GSLoRA(beta=0.25, bound=3.0, alpha=0.5, warmup=2))
    assert told.items() >= {"beta": 0.25, "bound": 3.0, "clamp": "sample", "alpha": 0.5, "warmup": 2}.items()


def test_what_stays_includes_rows_of_the_head_and_sums(world, stream):
    request = forget_request("f", stream[:3], classes=[5])
    edited = world.learner(Finetune(), NegGradPlus(epochs=1), LoRA(2))
    world.learn(edited, [*stream[:3], request])
    assert "(shared, the head's other rows)" in residual(edited, request, edited.unlearner)
    summed = world.learner(ACIL(8), Subtract())
    assert "up to rounding" in residual(summed, request, summed.unlearner)


def test_made_up_samples_are_not_counted_as_read(world, stream):
    learner = world.learn(world.learner(Finetune(), UNSIR(noises=2, noise_steps=1, copies=2), LoRA(2)), stream[:3])
    request = forget_request("f", stream[:3], classes=[5])
    cost = loop.carry_out(learner, request, world.make_trainer, 8)
    assert cost.read == {"forget": 0, "retain": sum(len(e.data) for e in request.remaining)}


@pytest.mark.parametrize(
    ("strategy", "unlearner", "possible"),
    [
        (Finetune, Retrain, ()),
        (EASE, DropAdapter, ({"experiences": ["task-0"]},)),
        (SimpleCIL, DropAdapter, ({"experiences": ["task-0"]}, {"classes": [5]})),
    ],
)
def test_what_learns_again_is_refused_without_the_samples_to_learn_from(strategy, unlearner, possible, world, stream):
    learner = world.learn(world.learner(strategy(), unlearner()), stream[:3])
    for asked in ({"samples": [5001]}, {"classes": [5]}, {"experiences": ["task-0"]}):
        request = forget_request("f", stream[:3], **asked, missing=["retain"])
        if asked in possible:
            assert check_request(learner.model, learner.strategy, learner.unlearner, request)
        else:
            with pytest.raises(UserError, match="cannot be had"):
                check_request(learner.model, learner.strategy, learner.unlearner, request)
    everything = forget_request("f", stream[:3], experiences=["task-0", "task-1", "task-2"], missing=["retain"])
    assert check_request(learner.model, learner.strategy, learner.unlearner, everything)

"""What every approximate unlearner promises, checked on every one there is. A new file joins by existing."""

import ast
import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cl_framework.adapters.lora import LoRA
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.methods.compatibility import check_request
from cl_framework.settings import discovery
from cl_framework.streams.events import forget_request
from cl_framework.streams.samples import Samples
from strategies.learning.ease import EASE
from strategies.learning.joint import Joint
from strategies.learning.simplecil import SimpleCIL

ALL = [discovery.load_class("unlearners", e.name) for e in discovery.catalogue("unlearners")]
KINDS = [u for u in ALL if not u.exact]
QUICK = {  # enough to change something
    "GSLoRA": {"epochs": 1},
    "GSLoRAPlusPlus": {"epochs": 1},
    "UNSIR": {"noises": 4, "noise_steps": 2, "copies": 2},
}
STRONG = {  # enough to forget a class of the tiny world, whose eight steps an epoch are few
    "BadTeacher": {"epochs": 10, "share": 1.0, "lr": 1e-2},
    "BoundaryShrink": {"epochs": 20, "lr": 1e-2},
    "FisherForgetting": {"a": 2e-4, "share": 1.0},
    "GSLoRA": {"epochs": 15, "share": 1.0},
    "GSLoRAPlusPlus": {"epochs": 15, "share": 1.0},
    "GradientAscent": {"epochs": 15, "lr": 1e-2},
    "NegGradPlus": {"share": 1.0, "lr": 1e-2},
    "RandomLabels": {"lr": 1e-2},
    "SCRUB": {"epochs": 8, "ascents": 4, "lr": 3e-2},
    "SalUn": {"lr": 1e-2},
    "TaskNegation": {"scale": 3.0, "lr": 1e-2},
    "UNSIR": {"noises": 16, "copies": 20},
}
WITHOUT_EFFECT = {
    "HeadRows",  # deletes the row, which is all it does
    "SSD",  # shrinks adapters, and this frozen backbone tells the classes apart without any
}


@pytest.fixture(params=KINDS, ids=lambda u: u.__name__)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def ready(world, stream):
    """A learner that knows six classes well, trained once; each call makes a copy."""
    options = {
        "adapter": LoRA(4, roles=["mlp_in", "value"]),
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    }
    whole = world.learn(world.learner(Joint(), **options), stream[:3])

    def make(unlearner):
        learner = world.learner(Joint(), unlearner, **options)
        checkpoint.restore(learner, world.clone(checkpoint.tensors(whole)), checkpoint.facts(whole))
        return learner

    return make


@pytest.fixture(scope="module")
def wanted(stream):
    return forget_request("f", stream[:3], classes=[2])


@pytest.fixture(scope="module")
def quick(world, stream, ready, wanted):
    """Learners before and after they forgot a class, made once; tests must leave them as they are."""
    found = {}

    def get(kind):
        if kind not in found:
            after = ready(kind(**QUICK.get(kind.__name__, {})))
            found[kind] = ready(None), world.learn(after, [wanted], stream[:3])
        return found[kind]

    return get


def accuracy(learner, samples):
    return float((learner.answer(samples) == samples.labels).float().mean())


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_all_methods_are_found():
    assert {*STRONG, *WITHOUT_EFFECT} <= {u.__name__ for u in KINDS}


def test_backbone_and_head_stay_bit_identical(kind, quick):
    before, after = quick(kind)
    assert after.model.backbone.digest() == before.model.backbone.digest()
    old, new = before.model.head, after.model.head
    stay = [old.classes.index(c) for c in new.classes]
    assert new.classes == tuple(c for c in old.classes if c != 2)
    assert torch.equal(new.weight, old.weight[stay])
    assert torch.equal(new.bias, old.bias[stay])


def test_the_class_cannot_be_answered_any_more(kind, quick, world):
    _, after = quick(kind)
    assert after.model.classes == (5, 7, 0, 1, 6)
    everything = world.noise(range(8), 5, "test")
    assert world.scores(after, everything).shape == (40, 5)
    assert 2 not in after.answer(everything)
    assert 2 not in after.strategy.memory.all().labels


def test_adapters_change_and_nothing_is_left_in_training(kind, quick):
    before, after = quick(kind)
    adapters = [{k: v for k, v in checkpoint.tensors(x).items() if ".adapters." in k} for x in (before, after)]
    assert same(*adapters) == (kind.__name__ == "HeadRows")
    assert not any(p.requires_grad for p in after.model.adapters.parameters())
    assert not after.model.adapters.training


def test_the_same_seed_gives_the_same_bits_whatever_the_dice_did_before(kind, quick, ready, wanted, world, stream):
    torch.manual_seed(4321)
    again = world.learn(ready(kind(**QUICK.get(kind.__name__, {}))), [wanted], stream[:3])
    assert world.differences(again, quick(kind)[1]) == []


@pytest.mark.parametrize("strategy", [EASE, SimpleCIL])
def test_it_refuses_strategies_that_forget_exactly_and_names_how(kind, strategy, world, stream):
    learner = world.learn(world.learner(strategy(), kind()), stream[:2])
    before = world.clone(checkpoint.tensors(learner))
    with pytest.raises(UserError, match=r"forgets exactly with (DropAdapter|Subtract).*Use one that can: .*Retrain"):
        world.learn(learner, [forget_request("f", stream[:2], classes=[2])], stream[:2])
    assert same(before, checkpoint.tensors(learner))


@pytest.mark.parametrize("need", ["forget", "retain"])
def test_it_is_refused_without_what_it_reads_and_reads_nothing_else(kind, need, ready, wanted, world, stream):
    learner = ready(kind(**QUICK.get(kind.__name__, {})))
    before = world.clone(checkpoint.tensors(learner))
    without = replace(wanted, missing=frozenset({need}))
    if need in kind.needs:
        with pytest.raises(UserError, match=rf"it reads the samples to {need}, which cannot be had"):
            world.learn(learner, [without], stream[:3])
        assert same(before, checkpoint.tensors(learner))
    else:
        if need == "forget":
            without = replace(without, data=Lost(without.data), reference=Lost(without.reference))
        else:
            lost = [replace(e, data=Lost(e.data), reference=Lost(e.reference)) for e in without.remaining]
            without = replace(without, remaining=tuple(lost))
        world.learn(learner, [without], stream[:3])
        assert 2 not in learner.model.classes


class Lost(Samples):
    """Samples whose labels and ids are known and which cannot be read."""

    def __init__(self, samples):
        self.labels, self.ids, self.key = samples.labels, samples.ids, samples.key

    def __getitem__(self, rows):
        raise AssertionError("These samples are gone.")


def test_it_forgets_a_class_that_the_head_goes_on_scoring_and_keeps_the_others(kind, ready, wanted, world, stream):
    name = kind.__name__
    if "keep_rows" not in inspect.signature(kind).parameters:
        assert name == "HeadRows"
        return
    learner = ready(kind(keep_rows=True, **STRONG.get(name, {})))
    gone, stay = world.noise([2], 12, "test"), world.noise([5, 7, 0, 1, 6], 12, "test")
    assert min(accuracy(learner, gone), accuracy(learner, stay)) > 0.9
    world.learn(learner, [wanted], stream[:3])
    assert 2 in learner.model.classes
    assert accuracy(learner, stay) > 0.85
    if name not in WITHOUT_EFFECT:
        assert accuracy(learner, gone) < 0.4


def test_learning_goes_on_afterwards(kind, ready, wanted, world, stream):
    learner = world.learn(ready(kind(**QUICK.get(kind.__name__, {}))), [wanted, stream[3]], stream[:3])
    assert learner.model.classes == (5, 7, 0, 1, 6, 4, 3)
    assert accuracy(learner, world.noise([5, 7, 0, 1, 6, 4, 3], 6, "test")) > 0.8


def test_a_second_request_can_follow(kind, ready, wanted, world, stream):
    second = forget_request("g", wanted.remaining, classes=[6, 7])
    learner = world.learn(ready(kind(**QUICK.get(kind.__name__, {}))), [wanted, second], stream[:3])
    assert learner.model.classes == (5, 0, 1)


@pytest.mark.parametrize("asked", [{"samples": [2001, 2004, 6003]}, {"samples": [2001], "classes": [6]}], ids=str)
def test_single_samples_are_forgotten_or_refused(kind, asked, ready, world, stream):
    learner, request = ready(kind(**QUICK.get(kind.__name__, {}))), forget_request("f", stream[:3], **asked)
    before, digest = world.clone(checkpoint.tensors(learner)), learner.model.backbone.digest()
    if kind.__name__ in {"HeadRows", "UNSIR"}:
        with pytest.raises(UserError, match=r"cannot honour 'f': .*stay.*Use one that can: .*GSLoRA"):
            world.learn(learner, [request], stream[:3])
        assert same(before, checkpoint.tensors(learner))
        return
    world.learn(learner, [request], stream[:3])
    assert 2 in learner.model.classes
    assert learner.model.backbone.digest() == digest
    assert not {2001, *asked["samples"]} & set(learner.strategy.memory.all().ids.tolist())


def test_it_refuses_where_nothing_would_stay(kind, ready, world, stream):
    learner = ready(kind())
    with pytest.raises(UserError, match=r"nothing would stay.*Use one that can: Retrain"):
        world.learn(learner, [forget_request("f", stream[:3], classes=[5, 2, 7, 0, 1, 6])], stream[:3])


def test_a_request_is_judged_before_anything_is_learned(kind, world, wanted):
    learner = world.learner(Joint(), kind(), LoRA(4, roles=["mlp_in", "value"]))
    assert check_request(learner.model, learner.strategy, learner.unlearner, wanted) is learner.unlearner


def test_it_says_what_it_reads_and_who_proposed_it(kind):
    module = ast.get_docstring(ast.parse(Path(inspect.getfile(kind)).read_text())) or ""
    says = inspect.getdoc(kind) or ""
    assert re.search(r"\bReads\s+(no\s+samples|the\s+(forget|retain)\s+set)\b", says)
    assert kind.__name__ == "HeadRows" or re.search(r"et al\..*\b20\d\d\b", module, re.DOTALL)
    assert kind.__bases__[0].__name__ == "Unlearner"
    assert getattr(kind, "__final__", False)

"""Lineage foretells what a request does to every artifact; here it is held to what really happens."""

import inspect
import itertools

import pytest
import torch

from cl_framework import lineage, plugins, state
from cl_framework.adapters.lora import LoRA
from cl_framework.stream import forget

STRATEGIES = [plugins.load("strategies", e.name) for e in plugins.catalogue("strategies")]
UNLEARNERS = [plugins.load("unlearners", e.name) for e in plugins.catalogue("unlearners")]
REQUESTS = {
    "a class": {"classes": [2]},
    "an experience": {"experiences": ["task-1"]},
    "samples of two experiences": {"samples": [2001, 2004, 6003]},
    "a class, an experience and a sample": {"classes": [5], "experiences": ["task-2"], "samples": [2003]},
}
CASES = [
    pytest.param(s, u, r, id=f"{s.__name__}-{u.__name__}-{n}")
    for (s, u), (n, r) in itertools.product(itertools.product(STRATEGIES, UNLEARNERS), REQUESTS.items())
]


@pytest.fixture(scope="module")
def learned(world, stream):
    """Learners after three experiences, made once and taken up from their state."""
    found = {}

    def get(strategy, unlearner):
        if strategy not in found:
            found[strategy] = world.learn(world.learner(strategy(), adapter=LoRA(2)), stream[:3])
        brief = {"epochs": 1} if "epochs" in inspect.signature(unlearner).parameters else {}
        whole, learner = found[strategy], world.learner(strategy(), unlearner(**brief), adapter=LoRA(2))
        state.restore(learner, world.clone(state.tensors(whole)), state.facts(whole))
        return learner

    return get


@pytest.mark.parametrize(("strategy", "unlearner", "asked"), CASES)
def test_what_is_foretold_is_what_happens(strategy, unlearner, asked, world, stream, learned):
    learner, request = learned(strategy, unlearner), forget("f", stream[:3], **asked)
    if learner._objection(learner.unlearner, request):
        return
    before, foretold = world.clone(state.tensors(learner)), lineage.treatments(learner, request, learner.unlearner)
    assert {n for t in foretold for n in t.artifact.tensors} == before.keys()  # nothing is overlooked
    world.learn(learner, [request], stream[:3])
    after = state.tensors(learner)
    for t in foretold:
        for n in t.artifact.tensors:
            if t.artifact.kind == "head row":
                continue
            if t.action == "delete":
                assert n not in after, (t, n)
            elif t.action == "keep":
                assert torch.equal(before[n], after[n]), (t, n)
            elif t.action in ("subtract", "edit"):
                assert n in after, (t, n)
    deleted = {int(t.artifact.name) for t in foretold if t.artifact.kind == "head row" and t.action == "delete"}
    assert not deleted & set(learner.model.head.classes)


@pytest.mark.parametrize("unlearner", [u for u in UNLEARNERS if u.exact])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_exact_unlearner_keeps_nothing_that_met_what_goes(strategy, unlearner, world, stream, learned):
    learner = learned(strategy, unlearner)
    for asked in REQUESTS.values():
        request = forget("f", stream[:3], **asked)
        if learner._objection(learner.unlearner, request):
            return
        for t in lineage.treatments(learner, request, learner.unlearner):
            if t.action == "keep" and t.artifact.ids is None:
                assert not set().union(*t.artifact.origin.values()) & set(request.data.classes()), t


def test_learning_again_deletes_the_edits_of_earlier_requests(world, stream, learned):
    learner = learned(plugins.load("strategies", "Finetune"), plugins.load("unlearners", "GSLoRA"))
    first = forget("f", stream[:3], classes=[5])
    world.learn(learner, [first], stream[:3])
    second, retrain = forget("g", first.remaining, classes=[2]), plugins.load("unlearners", "Retrain")()
    told = lineage.treatments(learner, second, retrain)
    assert [t.action for t in told if t.artifact.kind in ("adapter", "edit")] == ["retrain", "delete"]


def test_training_is_recorded_where_it_happens(world, stream, learned):
    joint = learned(plugins.load("strategies", "Joint"), UNLEARNERS[0])
    everything = {"task-0": {5, 2}, "task-1": {7, 0}, "task-2": {1, 6}}
    assert joint.model.adapters.origins == {"shared": everything}
    assert joint.model.head.origin == everything
    ease = learned(plugins.load("strategies", "EASE"), UNLEARNERS[0])
    assert ease.model.adapters.origins == {e: {e: classes} for e, classes in everything.items()}
    assert ease.model.head.origin == {}


def test_a_prototype_comes_from_its_class_and_from_what_trained_the_adapter_it_was_measured_with(learned):
    ease = learned(plugins.load("strategies", "EASE"), UNLEARNERS[0])
    (later,) = [a for a in lineage.artifacts(ease) if a.kind == "prototypes" and (a.cls, a.space) == (1, "task-0")]
    assert later.origin == {"task-0": {5, 2}, "task-2": {1}}

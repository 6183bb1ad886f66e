"""What every strategy promises, checked on every strategy there is. A new file joins by existing."""

import pytest
import torch

from cl_framework.engine import checkpoint
from cl_framework.methods.base import Strategy
from cl_framework.settings import discovery
from cl_framework.storage import tensors
from cl_framework.streams.events import forget_request
from strategies.unlearning.retrain import Retrain

LOCAL = {"InfLoRA", "L2P", "LwF", "OLoRA", "OSF", "OrthogonalAdaptation", "PEGO"}
"""Train the rows of an experience against each other alone, so that others may still outbid them."""

NAMES = [entry.name for entry in discovery.catalogue("strategies")]


@pytest.fixture(params=NAMES)
def kind(request):
    return discovery.load_class("strategies", request.param)


@pytest.fixture(scope="module")
def trained(world, stream):
    """Learners after three experiences, made once; tests must leave them as they are."""
    found = {}

    def get(kind):
        if kind not in found:
            found[kind] = world.learn(world.learner(kind()), stream[:3])
        return found[kind]

    return get


def test_at_least_the_four_first_strategies_are_found():
    assert {"EASE", "Finetune", "Joint", "SimpleCIL"} <= set(NAMES)


@pytest.fixture(scope="module")
def second(world, stream, trained):
    """Learners that met four experiences in one go, and what they differed in from the first ones after three."""
    found = {}

    def get(kind):
        if kind not in found:
            torch.manual_seed(12345)
            learner = world.learn(world.learner(kind()), stream[:3])
            differences = world.differences(trained(kind), learner)
            found[kind] = world.learn(learner, stream[3:], stream[:3]), differences
        return found[kind]

    return get


def test_the_backbone_stays_bit_identical_and_answers_are_over_live_classes_in_order(kind, world, stream):
    """After each event: through learning, forgetting, and learning again."""
    learner = world.learner(kind(), Retrain())
    before = learner.model.backbone.digest()
    past, request = [], forget_request("f", stream[:2], classes=[0, 5])
    for event, alive in (
        (stream[0], (5, 2)), (stream[1], (5, 2, 7, 0)), (request, (2, 7)), (stream[2], (2, 7, 1, 6)),
    ):  # fmt: skip
        world.learn(learner, [event], past)
        past = list(event.remaining) if event is request else [*past, event]
        assert learner.model.classes == alive
        x = world.noise(range(8), 3, "test")
        assert world.scores(learner, x).shape == (24, len(alive))
        assert set(learner.answer(x).tolist()) <= set(alive)
    assert learner.model.backbone.digest() == before


def test_columns_are_the_classes_they_are_said_to_be(kind, world, stream):
    """What was just learned is recognised by its id, which is neither a row nor in order."""
    learner = world.learner(kind(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    past = []
    for event in stream[:3]:
        world.learn(learner, [event], past)
        past.append(event)
        among = event.classes if kind.__name__ in LOCAL else learner.model.classes
        scores = world.scores(learner, event.data)[:, [learner.model.classes.index(c) for c in among]]
        assert (torch.tensor(among)[scores.argmax(1)] == event.data.labels).float().mean() > 0.8


def test_its_state_survives_a_round_trip_through_bytes(kind, trained, world, stream):
    one, two = trained(kind), world.learner(kind())
    checkpoint.restore(two, tensors.unpack(tensors.pack(checkpoint.tensors(one))), checkpoint.facts(one))
    assert world.differences(one, two) == []
    assert checkpoint.facts(one) == checkpoint.facts(two)


def test_it_continues_from_a_saved_state_as_if_nothing_had_happened(kind, trained, second, world, stream):
    (whole, _), resumed, first = second(kind), world.learner(kind()), trained(kind)
    checkpoint.restore(resumed, world.clone(checkpoint.tensors(first)), checkpoint.facts(first))
    world.learn(resumed, stream[3:], stream[:3])
    assert world.differences(whole, resumed) == []


def test_a_saved_state_replaces_whatever_a_learner_held(kind, trained, world, stream):
    one, other = trained(kind), world.learn(world.learner(kind()), [stream[3]])
    checkpoint.restore(other, world.clone(checkpoint.tensors(one)), checkpoint.facts(one))
    assert world.differences(one, other) == []


def test_the_same_seed_gives_the_same_bits_whatever_the_dice_did_before(kind, second):
    assert second(kind)[1] == []


def test_evaluation_changes_nothing(kind, trained, world):
    learner = trained(kind)
    before, rng, active = world.clone(learner.state_dict()), torch.get_rng_state(), learner.model.adapters.active
    known = dict(learner.model.known)
    learner.answer(world.noise(range(8), 5, "test"))
    after = learner.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (learner.model.adapters.active, learner.model.known) == (active, known)


def test_predictions_do_not_depend_on_company(kind, trained, world):
    learner, test = trained(kind), world.noise(range(8), 20, "test")
    scores = world.scores(learner, test)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    assert torch.equal(scores, world.scores(learner, test, 7))
    assert torch.equal(scores, world.scores(learner, test, 160))
    shuffled = type(test)(test.x[order], test.labels[order], test.ids[order])
    assert torch.equal(scores[order], world.scores(learner, shuffled, 33))


def test_only_what_a_plan_names_changes(kind, world, stream):
    learner = world.learner(kind())
    begin, end, seen = learner.begin, learner.end, []

    def others(plan):
        mine = {id(p) for p in plan.parameters()}
        return {k: v for k, v in learner.state_dict(keep_vars=True).items() if id(v) not in mine}

    def watch(plan, request):
        seen.append((plan, world.clone(others(plan))))
        begin(plan, request)

    def check():
        plan, before = seen[-1]
        after = others(plan)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)
        end()

    learner.begin, learner.end = watch, check
    world.learn(learner, stream[:3])
    assert not seen or not any(p.requires_grad for p in learner.parameters())


def test_defaults_are_enough_to_construct_it(kind):
    assert isinstance(kind(), Strategy)

"""Exact forgetting is a test: bit for bit the learner whose stream never contained what was forgotten."""

import functools
import itertools

import pytest
import torch

from cl_framework.engine import checkpoint, loop
from cl_framework.errors import UserError
from cl_framework.feature_cache.store import FeatureStore
from cl_framework.memory.feature_sums import drift
from cl_framework.methods.compatibility import check_request
from cl_framework.settings import discovery
from cl_framework.streams.events import forget_request
from strategies.learning.acil import ACIL
from strategies.learning.ease import EASE
from strategies.learning.fecam import FeCAM
from strategies.learning.finetune import Finetune
from strategies.learning.ranpac import RanPAC
from strategies.learning.simplecil import SimpleCIL
from strategies.learning.slda import SLDA
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain
from strategies.unlearning.subtract import Subtract

STRATEGIES = [discovery.load_class("strategies", e.name) for e in discovery.catalogue("strategies")]
UNLEARNERS = [
    u for u in (discovery.load_class("unlearners", e.name) for e in discovery.catalogue("unlearners")) if u.exact
]
REQUESTS = {
    "a class": {"classes": [2]},
    "an experience": {"experiences": ["task-1"]},
    "the newest experience": {"experiences": ["task-2"]},
    "samples of two experiences": {"samples": [2001, 2004, 6003]},
    "every sample of a class": {"samples": list(range(7000, 7010))},
    "several at once": {"classes": [5, 1], "experiences": ["task-1"], "samples": [2003]},
    "everything": {"classes": [0, 1, 2, 5, 6, 7]},
}

FEW = ["several at once", "everything"]

EXAMPLES = {"ACIL", "EASE", "FeCAM", "Finetune", "SLDA"}
"""Strategies whose every request each change runs: sums, adapters apart, statistics apart, all in one, shared sums."""


def case(strategy, unlearner, request):
    """A case; of other strategies than the examples each change runs the request that asks for several things."""
    few = strategy.__name__ in EXAMPLES or request == FEW[0]
    name = f"{strategy.__name__}-{unlearner.__name__}-{request}"
    return pytest.param(strategy, unlearner, request, id=name, marks=() if few else pytest.mark.slow)


def worth(strategy, unlearner):
    """Tell whether the details of a request matter: learning all again makes one of them as good as another."""
    apart = strategy().isolates is not None if unlearner is DropAdapter else strategy().subtracts
    return strategy is Finetune if unlearner is Retrain else apart


PAIRS = list(itertools.product(STRATEGIES, UNLEARNERS))
CASES = [
    case(s, u, n)
    for (s, u), n in itertools.product(PAIRS, REQUESTS)
    if worth(s, u) or n in (FEW if u is Retrain else FEW[:1])
]


@pytest.fixture(scope="module")
def never_met(world):
    """Learners of streams that hold exactly some experiences, made once for each set of samples."""
    found = {}

    def get(strategy, past):
        key = (strategy, *((e.name, e.classes, *e.data.ids.tolist()) for e in past))
        if key not in found:
            found[key] = world.learn(world.learner(strategy()), past)
        return found[key]

    return get


@pytest.fixture
def after_three(world, stream, never_met):
    """A learner that met three experiences, taken up from its state: the contract says that this is as good as new."""

    def get(strategy, unlearner):
        whole, learner = never_met(strategy, stream[:3]), world.learner(strategy(), unlearner())
        checkpoint.restore(learner, world.clone(checkpoint.tensors(whole)), checkpoint.facts(whole))
        return learner

    return get


@pytest.fixture
def accepted(world, stream):
    """Tell whether an unlearner takes a request of a strategy."""
    return lambda s, u, request: u().objection(world.learner(s()).model, s(), request) is None


@pytest.mark.parametrize(("strategy", "unlearner", "asked"), CASES)
def test_what_was_forgotten_was_never_met(strategy, unlearner, asked, world, stream, never_met, after_three, accepted):
    request, learner = forget_request("f", stream[:3], **REQUESTS[asked]), after_three(strategy, unlearner)
    before = world.clone(learner.state_dict())
    if not accepted(strategy, unlearner, request):
        with pytest.raises(UserError, match=r"cannot honour 'f'.*Use one that can: .*Retrain"):
            world.learn(learner, [request], stream[:3])
        assert before.keys() == learner.state_dict().keys()
        assert all(torch.equal(v, learner.state_dict()[k]) for k, v in before.items())
        assert world.differences(learner, never_met(strategy, stream[:3])) == []
        return
    world.scores(learner, world.noise(range(8), 1, "test"))  # what was worked out for this must not be used again
    world.learn(learner, [request], stream[:3])
    assert world.differences(learner, never_met(strategy, list(request.remaining)), unlearner.tolerance) == []
    world.learn(learner, [stream[3]], request.remaining)
    assert world.differences(learner, never_met(strategy, [*request.remaining, stream[3]]), unlearner.tolerance) == []


@pytest.mark.parametrize(("strategy", "unlearner"), [pair for pair in PAIRS if worth(*pair)])
def test_the_order_of_two_requests_does_not_matter(
    strategy, unlearner, world, stream, never_met, after_three, accepted
):
    one, two = {"classes": [5], "samples": [7002]}, {"samples": [7001, 2002], "experiences": ["task-2"]}
    ends = []
    for first, second in ((one, two), (two, one)):
        a = forget_request("f", stream[:3], **first)
        b = forget_request("g", a.remaining, **second)
        if not accepted(strategy, unlearner, a):
            return
        learner = world.learn(after_three(strategy, unlearner), [a, b], stream[:3])
        assert world.differences(learner, never_met(strategy, list(b.remaining)), unlearner.tolerance) == []
        ends.append([e.data.ids.tolist() for e in b.remaining])
    assert ends[0] == ends[1]


AGAIN = [s for s in STRATEGIES if s().repeats]
PARTS = {
    "the oldest domain": {"experiences": ["domain-0"]},
    "a later domain": {"experiences": ["domain-1"]},
    "the newest domain": {"experiences": ["domain-2"]},
    "a class of one domain": {"cells": [("domain-0", 5)]},
    "a class": {"classes": [5]},
    "samples of two domains": {"samples": [5003, 17004]},
    "all samples of a class of one domain": {"samples": list(range(5000, 5010))},
    "several at once": {"cells": [("domain-2", 7)], "experiences": ["domain-1"], "samples": [5003, 25004, 22001]},
}


DOMAINS = [
    case(s, u, n)
    for (s, u), n in itertools.product(itertools.product(AGAIN, UNLEARNERS), PARTS)
    if (worth(s, u) if u is not Retrain or s is Finetune else n == "several at once")
]


@pytest.mark.parametrize(("strategy", "unlearner", "asked"), DOMAINS)
def test_of_classes_that_came_again_goes_what_was_asked_for(strategy, unlearner, asked, world, never_met, accepted):
    """Whatever other experiences brought of the same classes stays, and nothing that one brought."""
    past, newer = world.domains()[:3], world.domains()[3]
    request, whole = forget_request("f", past, **PARTS[asked]), never_met(strategy, past)
    if not accepted(strategy, unlearner, request):
        return
    learner = world.learner(strategy(), unlearner())
    checkpoint.restore(learner, world.clone(checkpoint.tensors(whole)), checkpoint.facts(whole))
    world.learn(learner, [request], past)
    assert world.differences(learner, never_met(strategy, list(request.remaining)), unlearner.tolerance) == []
    world.learn(learner, [newer], request.remaining)
    assert world.differences(learner, never_met(strategy, [*request.remaining, newer]), unlearner.tolerance) == []


@pytest.mark.parametrize("strategy", AGAIN, ids=lambda s: s.__name__)
def test_some_unlearner_forgets_exactly_what_one_domain_brought(strategy, world, accepted):
    request = forget_request("f", world.domains()[:3], experiences=["domain-1"])
    assert any(accepted(strategy, unlearner, request) for unlearner in UNLEARNERS)


@pytest.mark.parametrize(
    "settings",
    [{"use_init_ptm": True}, {"complement": "all_later_as_released"}, {"alpha": 1.0}, {"route": "nearest:1"}],
    ids=str,
)
@pytest.mark.parametrize("asked", [REQUESTS["a class"], REQUESTS["several at once"]], ids=str)
def test_ease_forgets_exactly_with_other_settings_too(settings, asked, world, stream):
    request = forget_request("f", stream[:3], **asked)
    learner = world.learn(world.learner(EASE(**settings), DropAdapter()), [*stream[:3], request, stream[3]])
    reference = world.learn(world.learner(EASE(**settings)), [*request.remaining, stream[3]])
    assert world.differences(learner, reference) == []


def test_no_name_of_what_was_forgotten_stays_in_the_state(world, stream):
    request = forget_request("f", stream[:3], experiences=["task-1"])
    learner = world.learn(world.learner(EASE(), DropAdapter()), [*stream[:3], request])
    assert any("task-0" in name for name in checkpoint.tensors(learner))
    assert not any("task-1" in name for name in checkpoint.tensors(learner))


def test_what_was_worked_out_of_a_class_leaves_with_it(world, stream):
    learner = world.learn(world.learner(FeCAM(), DropAdapter()), stream[:2])
    learner.answer(stream[0].reference)
    assert set(learner.strategy.inverses) == {5, 2, 7, 0}
    world.learn(learner, [forget_request("f", stream[:2], classes=[0])], stream[:2])
    assert 0 not in learner.strategy.inverses


def test_whole_experiences_go_without_training_or_reading_data(world, stream):
    learner = world.learn(world.learner(EASE(), DropAdapter()), stream[:3])
    passes = dict(learner.model.passes)
    cost = loop.carry_out(learner, forget_request("f", stream[:3], experiences=["task-1"]), world.make_trainer, 8)
    assert (cost.steps, dict(learner.model.passes)) == (0, passes)


@pytest.mark.parametrize("unlearner", UNLEARNERS)
def test_forgetting_what_is_not_there_is_refused_without_a_trace(unlearner, world, stream):
    strategy = next(s for s in (SimpleCIL(), ACIL()) if s.subtracts == (unlearner is Subtract))
    learner = world.learn(world.learner(strategy, unlearner()), stream[:2])
    gone = forget_request("f", stream[:2], classes=[2])
    world.learn(learner, [gone], stream[:2])
    before = world.clone(checkpoint.tensors(learner))
    for request in (gone, forget_request("g", stream, classes=[6])):  # already gone; not learned yet
        with pytest.raises(UserError, match="never learned, or already gone"):
            world.learn(learner, [request], stream[:2])
    after = checkpoint.tensors(learner)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_forgetting_without_an_unlearner_says_how_to_set_one(world, stream):
    learner = world.learn(world.learner(SimpleCIL()), stream[:1])
    with pytest.raises(UserError, match=r"add `--model.unlearner"):
        world.learn(learner, [forget_request("f", stream[:1], classes=[2])], stream[:1])


def test_drop_adapter_refuses_finetune_and_names_retrain(world, stream):
    learner = world.learn(world.learner(Finetune(), DropAdapter()), stream[:1])
    with pytest.raises(UserError, match=r"Finetune shares its trained state.*Use one that can: .*\bRetrain\b"):
        world.learn(learner, [forget_request("f", stream[:1], classes=[2])], stream[:1])


def test_a_strategy_without_an_experience_left_can_learn_again(world, stream):
    everything = forget_request("f", stream[:1], experiences=["task-0"])
    for unlearner in (DropAdapter(), Retrain()):
        learner = world.learn(world.learner(EASE(), unlearner), [stream[0], everything, stream[1]])
        assert world.differences(learner, world.learn(world.learner(EASE()), [stream[1]])) == []


def test_sums_do_not_drift_through_many_requests(world, stream):
    """Sixty single samples leave in six requests; a rebuild from what remains stands by."""
    learner, past = world.learn(world.learner(ACIL(), Subtract()), stream), list(stream)
    order = torch.cat([e.data.ids for e in stream])[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    for i, ids in enumerate(order[:60].split(10)):
        request = forget_request(f"f-{i}", past, samples=ids.tolist())
        world.learn(learner, [request], past)
        past = list(request.remaining)
    rebuilt = world.learn(world.learner(ACIL()), past)
    assert drift(learner.strategy, rebuilt.strategy) < 1e-12
    assert world.differences(learner, rebuilt, 1e-6) == []


SUMMING = [s for s in STRATEGIES if s().subtracts] + [
    functools.partial(RanPAC, tune=False, ridge=1e-8),
    functools.partial(RanPAC, tune=False, ridge="published"),
]


@pytest.mark.parametrize("strategy", SUMMING, ids=lambda s: getattr(s, "__name__", None) or str(s.keywords))
def test_answers_after_subtracting_are_those_of_a_rebuild(strategy, world, stream):
    """Sums that agree to 1e-12 are no promise about answers: a tiny penalty would amplify what is left."""
    learner, past = world.learn(world.learner(strategy(), Subtract()), stream), list(stream)
    requests = ({"samples": [7001, 1002, 6004]}, {"classes": [6]}, {"samples": [4001, 4003, 3002]}, {"classes": [7]})
    for i, asked in enumerate(requests):
        request = forget_request(f"f-{i}", past, **asked)
        world.learn(learner, [request], past)
        past = list(request.remaining)
    rebuilt, test = world.learn(world.learner(strategy()), past), world.noise(range(6), 10, "test")
    one, other = (world.scores(who, test) for who in (learner, rebuilt))
    assert len(one) == 60
    assert torch.equal(one.argmax(1), other.argmax(1))
    assert float((one - other).abs().max()) <= 1e-3 * float(other.abs().max())


def test_subtracting_reads_only_what_must_go(world, stream):
    learner = world.learn(world.learner(ACIL(), Subtract()), stream)
    passes, request = dict(learner.model.passes), forget_request("f", stream, samples=[2001, 2004], missing=["retain"])
    learner.model.store = FeatureStore()
    cost = loop.carry_out(learner, request, world.make_trainer, 8)
    assert (cost.steps, learner.model.passes["statistics"] - passes["statistics"]) == (0, 2)
    with pytest.raises(UserError, match="reads the samples to forget, which cannot be had"):
        world.learn(
            learner, [forget_request("g", request.remaining, classes=[5], missing=["forget"])], request.remaining
        )


@pytest.mark.parametrize("strategy", [ACIL, SLDA])
def test_a_checked_subtraction_notes_its_drift_and_refuses_sums_that_are_off(strategy, world, stream):
    learner = world.learn(world.learner(strategy(), Subtract(check=True)), stream[:2])
    request = forget_request("f", stream[:2], classes=[2], samples=[7001])
    world.learn(learner, [request], stream[:2])
    assert 0 <= learner.unlearner.notes(learner.model, request)["drift"] < 1e-12
    learner.strategy.sums.get_buffer("gram")[0, 0] *= 1.001
    with pytest.raises(UserError, match=r"have drifted by .* Retrain"):
        world.learn(learner, [forget_request("g", request.remaining, classes=[5])], request.remaining)
    again = forget_request("g", request.remaining, classes=[5], missing=["retain"])
    with pytest.raises(UserError, match="sums up the retain set, which cannot be had"):
        check_request(learner.model, learner.strategy, learner.unlearner, again)

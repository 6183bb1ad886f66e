"""Lineage foretells what a request does to every artifact; here it is held to what really happens."""

import inspect
import itertools
import json
import re

import pytest
import torch

from cl_framework.adapters.lora import LoRA
from cl_framework.engine import checkpoint, lineage, loop
from cl_framework.engine.learner import Learner
from cl_framework.engine.sample_index import ids_of, index_of
from cl_framework.engine.treatments import treatments
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.feature_cache.rows import known_rows
from cl_framework.memory.exemplars import Memory
from cl_framework.methods.base import Plan, Strategy
from cl_framework.methods.compatibility import objection, suits
from cl_framework.runs.forget_plan import Case
from cl_framework.settings import discovery
from cl_framework.streams.events import forget_request
from cl_framework.streams.samples import Joined, Rows

STRATEGIES = [discovery.load_class("strategies", e.name) for e in discovery.catalogue("strategies")]
UNLEARNERS = [discovery.load_class("unlearners", e.name) for e in discovery.catalogue("unlearners")]
COMPOSITE = "a class, an experience and a sample"
REQUESTS = {
    "a class": {"classes": [2]},
    "an experience": {"experiences": ["task-1"]},
    "samples of two experiences": {"samples": [2001, 2004, 6003]},
    COMPOSITE: {"classes": [5], "experiences": ["task-2"], "samples": [2003]},
}
KINDS = {u.acts: u for u in reversed(UNLEARNERS)}
"""One unlearner for everything that one may do; lineage asks no more of it."""

EXAMPLES = {"ACIL", "EASE", "Finetune", "MOS", "SimpleCIL"}
"""Strategies that keep sums, adapters apart, all in one, each sample its own way, and prototypes."""

PAIRS = list(itertools.product(STRATEGIES, UNLEARNERS))


def telling(strategy, unlearner):
    """Tell whether every change runs this pair: examples meet each kind, all others meet one of them."""
    example, kind = strategy.__name__ in EXAMPLES, unlearner in KINDS.values()
    return (example and kind) or strategy.__name__ == "Finetune" or unlearner is KINDS["retrain"]


def essential(strategy, unlearner, request):
    """Tell whether every change runs this case: where an example meets a kind any request, else a composite one."""
    simple = strategy.__name__ in EXAMPLES and unlearner in KINDS.values()
    return telling(strategy, unlearner) and (simple or request == COMPOSITE)


CASES = [
    pytest.param(s, u, r, id=f"{s.__name__}-{u.__name__}-{n}", marks=() if essential(s, u, n) else pytest.mark.slow)
    for (s, u), (n, r) in itertools.product(PAIRS, REQUESTS.items())
    if s.__name__ in EXAMPLES or u in KINDS.values()
]
BRIEF = {"epochs": 1, "noises": 2, "noise_steps": 2, "copies": 2}


@pytest.fixture(scope="module")
def newborn(world):
    """Learners that have met nothing."""

    def get(strategy, unlearner):
        brief = {name: n for name, n in BRIEF.items() if name in inspect.signature(unlearner).parameters}
        adapter = LoRA(2) if suits(LoRA(2), world.TinyBackbone(), strategy.rewrites) else None
        return world.learner(strategy(), unlearner(**brief), adapter=adapter)

    return get


@pytest.fixture(scope="module")
def learned(world, stream, newborn):
    """Learners after three experiences, made once and taken up from their state."""
    found = {}

    def get(strategy, unlearner):
        if strategy not in found:
            found[strategy] = world.learn(newborn(strategy, UNLEARNERS[0]), stream[:3])
        whole, learner = found[strategy], newborn(strategy, unlearner)
        checkpoint.restore(learner, world.clone(checkpoint.tensors(whole)), checkpoint.facts(whole))
        return learner

    return get


@pytest.mark.parametrize(("strategy", "unlearner", "asked"), CASES)
def test_what_is_foretold_is_what_happens(strategy, unlearner, asked, world, stream, newborn, learned):
    learner, request = newborn(strategy, unlearner), forget_request("f", stream[:3], **asked)
    if objection(learner.model, learner.strategy, learner.unlearner, request):
        return
    learner = learned(strategy, unlearner)
    before, planned = world.clone(checkpoint.tensors(learner)), treatments(learner, request, learner.unlearner)
    assert {n for t in planned for n in t.artifact.tensors} == before.keys()  # nothing is overlooked
    world.learn(learner, [request], stream[:3])
    after = checkpoint.tensors(learner)
    for t in planned:
        for n in t.artifact.tensors:
            if t.artifact.kind == "head row":
                continue
            if t.action == "delete":
                assert n not in after, (t, n)
            elif t.action == "keep":
                assert torch.equal(before[n], after[n]), (t, n)
            elif t.action in ("subtract", "edit"):
                assert n in after, (t, n)
    deleted = {int(t.artifact.name) for t in planned if t.artifact.kind == "head row" and t.action == "delete"}
    assert not deleted & set(learner.model.head.classes)


@pytest.mark.parametrize(
    ("strategy", "unlearner"),
    [pytest.param(s, u, marks=() if telling(s, u) else pytest.mark.slow) for s, u in PAIRS],
)
def test_a_request_is_honoured_or_refused_before_anything_changes(strategy, unlearner, world, stream, learned):
    """What is honoured leaves nothing that is filed under a class or a sample that went."""
    learner, requests = (
        learned(strategy, unlearner),
        [forget_request("f", stream[:3], **asked) for asked in REQUESTS.values()],
    )
    before, told = world.clone(checkpoint.tensors(learner)), checkpoint.facts(learner)
    able = [r for r in reversed(requests) if objection(learner.model, learner.strategy, learner.unlearner, r) is None]
    for request in [] if able else requests:
        with pytest.raises(UserError, match=r"cannot honour 'f': .*Use one that can: .*Retrain") as refusal:
            world.learn(learner, [request], stream[:3])
        for name in re.findall(r"forgets exactly with (\w+)", str(refusal.value)):
            assert (
                objection(learner.model, learner.strategy, discovery.load_class("unlearners", name)(), request) is None
            )
        after = checkpoint.tensors(learner)
        assert checkpoint.facts(learner) == told
        assert before.keys() == after.keys()
        assert all(torch.equal(t, after[n]) for n, t in before.items())
    for request in able[:1]:
        world.learn(learner, [request], stream[:3])
        classes, went = {*request.classes}, {*request.data.ids.tolist()}
        assert set(learner.model.classes) == {5, 2, 7, 0, 1, 6} - classes
        assert bool(world.scores(learner, world.noise(range(8), 2, "test")).isfinite().all())
        assert not [n for n in checkpoint.tensors(learner) if "|" in n and lineage.key_of(n).cls in classes]
        for n, t in checkpoint.tensors(learner).items():
            gone = went if ".ids." in n else classes
            assert t.is_floating_point() or not gone & set(t.flatten().tolist()), n


@pytest.mark.parametrize("unlearner", [u for u in UNLEARNERS if u.exact])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_exact_unlearner_keeps_nothing_that_met_what_goes(strategy, unlearner, stream, newborn, learned):
    for asked in REQUESTS.values():
        learner, request = newborn(strategy, unlearner), forget_request("f", stream[:3], **asked)
        if objection(learner.model, learner.strategy, learner.unlearner, request):
            continue
        learner = learned(strategy, unlearner)
        for t in treatments(learner, request, learner.unlearner):
            if t.action == "keep" and t.artifact.ids is None:
                assert not {c for _, c in t.artifact.origin} & set(request.data.classes()), t


def test_learning_again_deletes_the_edits_of_earlier_requests(world, stream, learned):
    learner = learned(discovery.load_class("strategies", "Finetune"), discovery.load_class("unlearners", "GSLoRA"))
    first = forget_request("f", stream[:3], classes=[5])
    world.learn(learner, [first], stream[:3])
    second, retrain = forget_request("g", first.remaining, classes=[2]), discovery.load_class("unlearners", "Retrain")()
    told = treatments(learner, second, retrain)
    assert [t.action for t in told if t.artifact.kind in ("adapter", "edit")] == ["retrain", "delete"]


def test_training_is_recorded_where_it_happens(world, stream, learned):
    joint = learned(discovery.load_class("strategies", "Joint"), UNLEARNERS[0])
    cells = {"task-0": {5, 2}, "task-1": {7, 0}, "task-2": {1, 6}}
    everything = {(e, c) for e, classes in cells.items() for c in classes}
    assert {name: set(origin) for name, origin in joint.model.adapters.origins.items()} == {"shared": everything}
    assert set(joint.model.head.origin) == everything
    ease = learned(discovery.load_class("strategies", "EASE"), UNLEARNERS[0])
    found = {name: set(origin) for name, origin in ease.model.adapters.origins.items()}
    assert found == {e: {(e, c) for c in classes} for e, classes in cells.items()}
    assert ease.model.head.origin == ()


def test_a_prototype_comes_from_its_class_and_from_what_trained_the_adapter_it_was_measured_with(learned):
    ease = learned(discovery.load_class("strategies", "EASE"), UNLEARNERS[0])
    (later,) = [a for a in lineage.artifacts(ease) if a.kind == "prototypes" and (a.cls, a.space) == (1, "task-0")]
    assert set(later.origin) == {("task-0", 5), ("task-0", 2), ("task-2", 1)}


def load(strategy, unlearner, **settings):
    return discovery.load_class("strategies", strategy)(), discovery.load_class("unlearners", unlearner)(**settings)


def ids(*classes, without=()):
    """The samples of classes of the tiny world."""
    return {1000 * c + i for c in classes for i in range(10)} - set(without)


def by_name(learner, events):
    """Sample ids by what holds them."""
    there = index_of(events)
    return {(a.kind, a.name): set(lineage.artifact_samples(a, there)) for a in lineage.artifacts(learner)}


@pytest.fixture
def two_requests(stream):
    """Two experiences are learned, then two samples and a class are forgotten."""
    f = forget_request("f", stream[:2], samples=[2001, 7003])
    return [*stream[:2], f, forget_request("g", f.remaining, classes=[0])]


@pytest.fixture
def batches(monkeypatch):
    """Which samples were read by event and adapter, noted where they are learned from."""
    read, step, carry = {}, Learner.training_step, loop.carry_out

    def noted(learner, batch, batch_idx):
        bank = learner.model.adapters
        for name in bank:
            if any(p.requires_grad for p in bank.params(name)):
                read[noted.event].setdefault(name, set()).update(batch.ids.tolist())
        return step(learner, batch, batch_idx)

    def carried(learner, event, *args):
        noted.event = event.name
        read[event.name] = {}
        return carry(learner, event, *args)

    monkeypatch.setattr(Learner, "training_step", noted)
    monkeypatch.setattr(loop, "carry_out", carried)
    return read


def test_samples_of_what_is_kept_apart_are_those_that_were_left(world, two_requests, batches):
    learner = world.learn(world.learner(*load("EASE", "DropAdapter")), two_requests)
    first, second = ids(5, 2, without=[2001]), ids(7, without=[7003])
    assert by_name(learner, two_requests) == {
        ("adapter", "task-0"): first,
        ("adapter", "task-1"): second,
        ("head", "without rows"): set(),
        ("prototypes", "5 in task-0"): first,
        ("prototypes", "2 in task-0"): first,
        ("prototypes", "7 in task-0"): first | second,
        ("prototypes", "7 in task-1"): second,
    }
    assert batches["f"] | batches["g"] == {"task-0": first, "task-1": second}


def test_samples_of_sums_are_those_that_were_not_subtracted(world, two_requests):
    learner = world.learn(world.learner(*load("ACIL", "Subtract")), two_requests)
    found = by_name(learner, two_requests)
    assert found.pop(("sums", "sums.gram")) == ids(5, 2, 7, without=[2001, 7003])
    assert {name: s for (_, name), s in found.items() if s} == {
        "5 in task-0": ids(5), "2 in task-0": ids(2, without=[2001]), "7 in task-1": ids(7, without=[7003])
    }  # fmt: skip


def test_samples_of_what_is_learned_again_are_those_that_are_left(world, two_requests, batches):
    learner = world.learn(world.learner(*load("Joint", "Retrain")), two_requests)
    left = ids(5, 2, 7, without=[2001, 7003])
    assert batches["g"] == {"shared": left}
    memories = {("memory", f"{c} in task-{c // 7}"): ids(c, without=[2001, 7003]) for c in (5, 2, 7)}
    rows = {("head row", str(c)): left for c in (5, 2, 7)}
    assert by_name(learner, two_requests) == {("adapter", "shared"): left, **rows, **memories}
    assert learner.model.outlived == {}


@pytest.mark.parametrize(
    ("unlearner", "settings"),
    [("NegGradPlus", {"epochs": 1}), ("HeadRows", {}), ("SSD", {}), ("GSLoRA", {"epochs": 1}), ("UNSIR", {})],
)
def test_what_is_edited_or_left_holds_what_was_forgotten_until_it_is_learned_again(
    unlearner, settings, world, stream, batches
):
    learner = world.learner(*load("Joint", unlearner, **settings), adapter=LoRA(2))
    events = [*stream[:2], forget_request("f", stream[:2], classes=[0])]
    world.learn(learner, events)
    assert by_name(learner, events)["adapter", "shared"] == ids(5, 2, 7, 0) == batches["task-1"]["shared"]
    assert by_name(learner, events)["head row", "7"] == ids(5, 2, 7, 0)
    assert by_name(learner, events)["memory", "7 in task-1"] == ids(7)
    told = checkpoint.facts(learner)
    adapters = ["shared", "f"] if unlearner == "GSLoRA" else ["shared"]
    stayed = ["model.head", *(f"model.adapters.rewrites.{name}" for name in adapters)]
    assert told["outlived"] == {holder: ["f"] for holder in stayed}

    learner.unlearner = discovery.load_class("unlearners", "Retrain")()
    events.append(forget_request("g", events[-1].remaining, samples=[2001]))
    world.learn(learner, events[-1:], events[-2].remaining)
    gone = ids(0) | {2001}
    assert all(not s & gone for s in by_name(learner, events).values())
    assert checkpoint.facts(learner)["outlived"] == {}


def test_samples_that_an_edit_forgot_stay_in_what_had_met_them(world, two_requests, batches):
    learner = world.learner(*load("Finetune", "GSLoRA", epochs=1, share=0.3), adapter=LoRA(2))
    world.learn(learner, two_requests)
    found, everything = by_name(learner, two_requests), ids(5, 2, 7, 0)
    assert found["adapter", "shared"] == everything
    assert found["head row", "5"] == everything
    one, two = batches["f"]["f"], batches["g"]["g"]
    assert found["edit", "g"] == two | ids(0)  # what was taken counts as a whole; of what stays, only what was read
    assert found["edit", "f"] == one | {2001, 7003} | ids(0)
    assert len(found["edit", "g"] - ids(0)) < len(ids(5, 2, 7)) / 2
    restored = world.learner(*load("Finetune", "GSLoRA"), adapter=LoRA(2))
    checkpoint.restore(
        restored, world.clone(checkpoint.tensors(learner)), json.loads(json.dumps(checkpoint.facts(learner)))
    )
    assert by_name(restored, two_requests) == found
    written = json.dumps(checkpoint.facts(learner))
    assert not any(str(i) in written for i in everything if i > 999)
    kept = set(torch.cat([t for n, t in checkpoint.tensors(learner).items() if ".reading." in n]).tolist())
    assert kept
    assert not kept & (ids(0) | {2001, 7003})


class Rehearsing(Strategy):
    """An adapter for each experience, trained with three old samples of each class."""

    def __init__(self):
        super().__init__()
        self.memory = Memory(3)

    def learn(self, model, event):
        model.head.grow(event.classes)
        data = Joined([event.data, self.memory.all()]) if self.memory else event.data
        yield Plan(data, [*model.adapters.add(event.name), *model.head.parameters()])
        self.memory.keep(event)

    def predict(self, model, x):
        return model.head(model.features(x, model.experiences[-1]))


def test_an_adapter_trained_with_few_old_samples_holds_those(world, stream, batches):
    retrain = discovery.load_class("unlearners", "Retrain")()
    learner = world.learn(world.learner(Rehearsing(), retrain), stream[:3])
    found = by_name(learner, stream[:3])
    assert len(found["adapter", "task-2"]) == 20 + 4 * 3
    for name in ("task-0", "task-1", "task-2"):
        assert found["adapter", name] == batches[name][name]
    assert found["head row", "6"] == ids(5, 2, 7, 0, 1, 6), "the head met all of them in turn"
    old = next(i for i in found["adapter", "task-2"] if i // 1000 == 5)
    request = forget_request("f", stream[:3], samples=[old])
    treated = treatments(learner, request, retrain)
    assert {t.action for t in treated if t.artifact.kind == "lineage"} == {"retrain"}
    world.learn(learner, [request], stream[:3])
    after = by_name(learner, [*stream[:3], request])
    assert after["adapter", "task-2"] == batches["f"]["task-2"]
    assert not any(old in s for s in after.values())
    assert not any(old in t.flatten().tolist() for n, t in checkpoint.tensors(learner).items() if ".ids." in n)
    never = world.learn(world.learner(Rehearsing()), request.remaining)
    assert world.differences(learner, never) == []


def test_an_adapter_that_starts_as_another_has_met_the_same(world, stream):
    learner = world.learner(*load("Finetune", "NegGradPlus", epochs=1))
    events = [*stream[:2], forget_request("f", stream[:2], classes=[0])]
    bank = world.learn(learner, events).model.adapters
    bank.add("twin", like="shared")
    found = by_name(learner, events)
    assert found["adapter", "twin"] == found["adapter", "shared"] == ids(5, 2, 7, 0)
    bank.drop("shared")
    assert learner.model.outlived.keys() == {"model.head", "model.adapters.rewrites.twin"}


def test_made_up_samples_stand_for_their_class(world, stream):
    class Drawn(Strategy):
        def learn(self, model, event):
            model.head.grow(event.classes)
            labels = torch.tensor(event.classes).repeat(4)
            yield Plan(Rows(torch.randn(8, 16), labels), list(model.head.parameters()), drawn)

        def predict(self, model, x):
            return model.head(model.features(x, ()))

    def drawn(model, batch):
        return torch.nn.functional.cross_entropy(model.head(batch.x), model.head.index(batch.y))

    learner = world.learn(world.learner(Drawn()), stream[:1])
    assert by_name(learner, stream[:1])["head row", "5"] == ids(5, 2)


def test_a_census_knows_what_each_request_took(two_requests):
    there = index_of(two_requests)
    assert there.taken["f"] == {("task-0", 2): {2001}, ("task-1", 7): {7003}}
    assert ids_of(there.taken["g"]) == ids(0)
    left = {("task-0", 5): ids(5), ("task-0", 2): ids(2, without=[2001]), ("task-1", 7): ids(7, without=[7003])}
    assert there.alive == left
    assert ids_of(there.ever) == ids(5, 2, 7, 0)


@pytest.mark.parametrize(
    ("strategy", "unlearner", "settings"),
    [
        ("SimpleCIL", "DropAdapter", {}),
        ("EASE", "DropAdapter", {}),
        ("Finetune", "GSLoRA", {"epochs": 1}),
        ("Joint", "Retrain", {}),
    ],
)
def test_stored_features_go_as_foretold(strategy, unlearner, settings, world, stream):
    learner = world.learner(*load(strategy, unlearner, **settings), adapter=LoRA(2))
    events = [*stream[:3], forget_request("f", stream[:3], classes=[2])]
    steps, evaluator = list(world.Listed(events).steps()), Evaluator()
    loop.run_stream(learner, world.Listed(events[:3]), world.make_trainer, evaluator, world.Listener(learner), 8)
    planned = Case(None, learner, steps).in_store()
    rows = known_rows(learner.model.store.state())
    loop.attach_memories(learner, stream[:3])
    loop.carry_out_step(learner, steps[-1], world.make_trainer, evaluator, 8)
    after = {k: set(ids.tolist()) for k, ids in known_rows(learner.model.store.state()).items()}
    lost = sum(len(set(ids.tolist()) - after.get(k, set())) for k, ids in rows.items())
    fates = {"delete": 0, "keep": 0}
    for f in planned:
        fates[f.treatment.action] += int(f.treatment.artifact.name.split()[0])
    assert fates == {"delete": lost, "keep": sum(map(len, rows.values())) - lost}
    gone = next(f for f in planned if f.treatment.why == "of samples that go")
    assert {c for _, c in gone.examined} == {2}

"""Classes that come again: each experience's part of a class is kept, counted and forgotten by itself."""

import json

import pytest
import torch

from cl_framework.adapters.lora import LoRA
from cl_framework.engine import checkpoint, lineage, loop
from cl_framework.engine.learner import Learner
from cl_framework.engine.sample_index import ids_of, index_of
from cl_framework.engine.treatments import treatments
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.results import EventResult, results
from cl_framework.evaluation.tables import headline
from cl_framework.methods.compatibility import objection
from cl_framework.settings import discovery
from cl_framework.streams.events import Experience, ForgetRequest, exam_of, forget_request, surviving
from cl_framework.streams.samples import Joined
from scenarios.clpu import CLPU
from scenarios.forget_sequence import ForgetSequence
from scenarios.forget_then_relearn import ForgetThenRelearn
from scenarios.mixed import Mixed
from scenarios.random_insertion import RandomInsertion
from scenarios.requests import Request
from scenarios.sliding_window import SlidingWindow
from strategies.learning.acil import ACIL
from strategies.learning.aper import APER
from strategies.learning.ewc import EWC
from strategies.learning.fecam import FeCAM
from strategies.learning.finetune import Finetune
from strategies.learning.joint import Joint
from strategies.learning.ranpac import RanPAC
from strategies.learning.replay import Replay
from strategies.learning.simplecil import SimpleCIL
from strategies.learning.slda import SLDA
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain
from strategies.unlearning.subtract import Subtract

UNLEARNERS = [discovery.load_class("unlearners", e.name) for e in discovery.catalogue("unlearners")]


@pytest.fixture
def domains(world):
    return world.domains()


def of(domain, *classes):
    """The sample ids of classes of a domain."""
    return {10_000 * domain + 1000 * c + i for c in classes for i in range(10)}


# --- what a request takes --------------------------------------------------------------------------------------------


def test_an_experience_goes_with_what_it_brought_and_no_more(domains):
    request = forget_request("f", domains[:3], experiences=["domain-0"])
    assert (request.classes, request.experiences, request.single) == ((), ("domain-0",), True)
    assert set(request.data.ids.tolist()) == of(0, 5, 2, 7) == set(request.reference.ids.tolist())
    assert request.cells == {("domain-0", 5), ("domain-0", 2), ("domain-0", 7)}
    assert [e.classes for e in request.remaining] == [(7, 5, 0), (2, 7, 5, 0)]
    assert request.stays == {2: ("domain-2",), 5: ("domain-1", "domain-2"), 7: ("domain-1", "domain-2")}


def test_a_class_vanishes_once_no_experience_keeps_samples_of_it(domains):
    first = forget_request("f", domains[:3], experiences=["domain-0"])
    second = forget_request("g", first.remaining, experiences=["domain-2"])
    assert (second.classes, second.single) == ((2,), False)
    assert second.stays == {0: ("domain-1",), 5: ("domain-1",), 7: ("domain-1",)}
    assert forget_request("h", second.remaining, classes=[0]).classes == (0,)


def test_a_class_of_one_experience_can_be_asked_for(domains):
    request = forget_request("f", domains[:3], cells=[("domain-2", 5)], samples=[7001])
    assert set(request.data.ids.tolist()) == of(2, 5) | {7001}
    assert (request.classes, request.cells, request.thinned) == ((), {("domain-2", 5)}, {("domain-0", 7)})
    assert request.taken == {("domain-0", 7): {7001}, ("domain-2", 5): of(2, 5)}
    one_by_one = forget_request("f", domains[:3], samples=[*of(2, 5), 7001])
    assert (one_by_one.cells, one_by_one.taken) == (request.cells, request.taken)
    with pytest.raises(
        UserError, match=r"class of experience 2 of domain-1: never learned, or already gone\. Alive now"
    ):
        forget_request("f", domains[:3], cells=[("domain-1", 2)])
    with pytest.raises(UserError, match="already gone"):
        forget_request("g", request.remaining, cells=[("domain-2", 5)])


# --- what is learned of classes that come again ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [SimpleCIL, ACIL, SLDA, FeCAM, lambda: RanPAC(tune=False)])
def test_statistics_of_parts_are_those_of_all_samples_together(make, world, domains):
    parts = world.learn(world.learner(make()), domains[:3])
    data, reference = (Joined([getattr(e, view) for e in domains[:3]]) for view in ("data", "reference"))
    whole = world.learn(world.learner(make()), [Experience("all", (5, 2, 7, 0), data, reference)])
    exam = world.noise((5, 2, 7, 0), 10, "test")
    torch.testing.assert_close(world.scores(parts, exam), world.scores(whole, exam), rtol=1e-3, atol=1e-4)


def test_a_mean_counts_as_often_as_it_has_samples(world):
    few, many = world.domain(0, (5, 2), 3), world.domain(1, (5, 2), 9)
    learner = world.learn(world.learner(SimpleCIL()), [few, many])
    z = torch.cat([learner.model.embed(e.reference.of([5]), ())[0] for e in (few, many)])
    torch.testing.assert_close(learner.strategy.prototypes.of([5])[0], z.mean(0))


def test_the_order_of_classes_is_that_of_what_is_left(world, domains):
    request = forget_request("f", domains[:2], experiences=["domain-0"])
    for unlearner, order in ((Retrain(), (7, 5, 0)), (DropAdapter(), (7, 5, 0))):
        learner = world.learn(world.learner(SimpleCIL(), unlearner), [*domains[:2], request])
        assert learner.model.classes == order
        assert learner.model.brought == {"domain-1": (7, 5, 0)}


def test_an_edit_keeps_the_order_that_the_rows_of_the_head_have(world, domains):
    learner = world.learner(Finetune(), discovery.load_class("unlearners", "SSD")())
    world.learn(learner, [*domains[:2], forget_request("f", domains[:2], experiences=["domain-0"])])
    assert learner.model.classes == learner.model.head.classes == (5, 7, 0)
    assert learner.model.known == {5: "domain-1", 7: "domain-1", 0: "domain-1"}
    again = world.learner(Finetune(), discovery.load_class("unlearners", "SSD")())
    checkpoint.restore(
        again, world.clone(checkpoint.tensors(learner)), json.loads(json.dumps(checkpoint.facts(learner)))
    )
    assert (again.model.known, again.model.brought) == (learner.model.known, learner.model.brought)
    assert list(again.model.known) == list(learner.model.known)


def test_ewc_keeps_the_ties_of_a_domain_that_brought_no_new_class(world):
    past = [world.domain(t, (5, 2)) for t in range(3)]
    learner = world.learn(world.learner(EWC()), past)
    assert {e.experience for e in learner.strategy.filed} == {"domain-0", "domain-1", "domain-2"}


# --- lineage ---------------------------------------------------------------------------------------------------------


def by_name(learner, events):
    there = index_of(events)
    return {(a.kind, a.name): set(lineage.artifact_samples(a, there)) for a in lineage.artifacts(learner)}


def test_lineage_counts_every_sample_of_classes_that_came_again(world, domains):
    learner = world.learn(world.learner(Finetune(), Retrain()), domains[:2])
    everything = of(0, 5, 2, 7) | of(1, 7, 5, 0)
    assert by_name(learner, domains[:2])["adapter", "shared"] == everything
    assert by_name(learner, domains[:2])["head row", "5"] == everything
    request = forget_request("f", domains[:2], experiences=["domain-0"])
    told = treatments(learner, request, learner.unlearner)
    assert {t.action for t in told if t.artifact.kind == "adapter"} == {"retrain"}
    events = [*domains[:2], request]
    assert ids_of(index_of(events).taken["f"]) == of(0, 5, 2, 7)
    world.learn(learner, [request], domains[:2])
    assert by_name(learner, events)["adapter", "shared"] == of(1, 7, 5, 0)


def test_a_replayed_sample_counts_where_it_came_from(world, domains, monkeypatch):
    read, step = set(), Learner.training_step

    def noted(learner, batch, batch_idx):
        read.update(batch.ids.tolist())
        return step(learner, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", noted)
    learner = world.learn(world.learner(Replay(2)), domains[:3])
    assert (
        by_name(learner, domains[:3])["adapter", "shared"]
        == read
        == of(0, 5, 2, 7) | of(1, 7, 5, 0) | of(2, 2, 7, 5, 0)
    )
    found = {e for e in learner.strategy.memory.ids if e.cls == 5}
    assert {e.experience for e in found} == {"domain-0", "domain-1", "domain-2"}


def test_means_and_sums_hold_what_one_experience_brought(world, domains):
    simple = by_name(world.learn(world.learner(SimpleCIL()), domains[:2]), domains[:2])
    assert simple["prototypes", "5 in domain-0"] == of(0, 5)
    assert simple["prototypes", "5 in domain-1"] == of(1, 5)
    sums = by_name(world.learn(world.learner(ACIL()), domains[:2]), domains[:2])
    assert sums["sums", "7 in domain-1"] == of(1, 7)
    assert sums["sums", "sums.gram"] == of(0, 5, 2, 7) | of(1, 7, 5, 0)


CASES = [
    (SimpleCIL, DropAdapter),
    (APER, DropAdapter),
    (FeCAM, DropAdapter),
    (ACIL, Subtract),
    (lambda: RanPAC(tune=False), Subtract),
    (Replay, Retrain),
    (EWC, discovery.load_class("unlearners", "SSD")),
    (Joint, discovery.load_class("unlearners", "SSD")),
]


@pytest.mark.parametrize(("strategy", "unlearner"), CASES)
@pytest.mark.parametrize(
    "asked",
    [{"experiences": ["domain-1"]}, {"cells": [("domain-2", 5)], "samples": [7001]}, {"experiences": ["domain-0"]}],
    ids=str,
)
def test_what_is_foretold_is_what_happens(strategy, unlearner, asked, world, domains):
    learner = world.learn(world.learner(strategy(), unlearner()), domains[:3])
    request = forget_request("f", domains[:3], **asked)
    before, told = world.clone(checkpoint.tensors(learner)), treatments(learner, request, learner.unlearner)
    assert {n for t in told for n in t.artifact.tensors} == before.keys()
    world.learn(learner, [request], domains[:3])
    after = checkpoint.tensors(learner)
    for t in told:
        for n in (n for n in t.artifact.tensors if t.artifact.kind != "head row"):
            assert n not in after if t.action == "delete" else n in after, (t, n)
            if t.action == "keep":
                assert torch.equal(before[n], after[n]), (t, n)
    gone = set(request.data.ids.tolist())
    if learner.unlearner.exact:
        assert all(not s & gone for s in by_name(learner, [*domains[:3], request]).values())
    assert not [n for n, t in after.items() if ".ids." in n and gone & set(t.tolist())]


@pytest.mark.parametrize("unlearner", [u for u in UNLEARNERS if not u.exact], ids=lambda u: u.__name__)
def test_an_edit_forgets_a_domain_or_says_that_it_cannot(unlearner, world, domains):
    brief = {n: 1 for n in ("epochs",) if n in unlearner.__init__.__annotations__}
    learner = world.learner(Joint(), unlearner(**brief), adapter=LoRA(2))
    request = forget_request("f", domains[:2], experiences=["domain-0"])
    world.learn(learner, domains[:2])
    if told := objection(learner.model, learner.strategy, learner.unlearner, request):
        assert unlearner.__name__ in ("HeadRows", "UNSIR")
        assert "stay" in told
        return
    world.learn(learner, [request], domains[:2])
    assert set(learner.model.classes) == {5, 7, 0}, "2 came with this domain only"
    assert bool(world.scores(learner, world.noise(range(8), 2, "test")).isfinite().all())
    events = [*domains[:2], request]
    held = by_name(learner, events)["adapter", "shared"]
    assert held == of(0, 5, 2, 7) | of(1, 7, 5, 0), "edited, not learned again: it still holds what it met"
    assert all(not s & of(0, 5, 2, 7) for (kind, _), s in by_name(learner, events).items() if kind == "memory")


# --- exams and reports -----------------------------------------------------------------------------------------------


def taken_through(world, strategy, unlearner, events):
    """Measurements of a stream that a learner met step by step, and the screen's last lines about it."""
    learner, evaluator, seen, records = world.learner(strategy, unlearner), Evaluator(), [], []
    for step in world.Listed(events).steps():
        loop.attach_memories(learner, surviving(seen))
        measurements, cost = loop.carry_out_step(learner, step, world.make_trainer, evaluator, 8)
        passes = [cost.passes[k] for k in ("train", "statistics", "evaluate")]
        records.append(EventResult(measurements, 0.0, cost.trainable_parameters, cost.steps, *passes, 0, 0))
        seen.append(step)
    exams = [(r.measurements.event, r.measurements.classes) for r in records if r.measurements.kind == "learn"]
    return records, results("S", exams, records, [f"class {c}" for c in range(8)])


def test_an_exam_leaves_with_what_its_experience_brought(world):
    past = [world.domain(t, (5, 2, 7)) for t in range(2)]
    request = forget_request("f", past, experiences=["domain-0"])
    records, made = taken_through(world, SimpleCIL(), DropAdapter(), [*past, request])
    measurements = records[-1].measurements
    assert set(measurements.exams) == {"domain-1"}
    assert (measurements.classes, measurements.forget.went, measurements.forget.samples) == ((), 30, 30)
    assert measurements.forget.stays == {c: ("domain-1",) for c in (2, 5, 7)}
    assert measurements.forget.unseen is not None
    (told,) = made["forget"]
    assert (told["went"], told["stays"]) == (30, {c: ["domain-1"] for c in "257"})
    assert told["h_mean"] is told["relapse"] is None
    last = "".join(str(cell) for column in headline(made).columns for cell in column.cells)
    assert "30 samples; classes class 2, class 5, class 7 stay through domain-1" in last
    assert records[-1] == EventResult.from_dict(json.loads(json.dumps(records[-1].to_dict())))


def test_what_stays_is_compared_exam_by_exam(world):
    """Accuracy on the exam that leaves is no erosion of the classes that stay."""
    past = [world.domain(t, (5, 2, 7)) for t in range(2)]
    request = forget_request("f", past, experiences=["domain-0"])
    records, made = taken_through(world, SimpleCIL(), DropAdapter(), [*past, request])
    before, after = (r.measurements.exams["domain-1"].values() for r in records[-2:])
    (then, n), (now, m) = (map(sum, zip(*hits, strict=True)) for hits in (before, after))
    assert made["forget"][0]["erosion"] == pytest.approx(then / n - now / m)


def test_samples_are_examined_on_themselves_where_every_class_stays(world, domains):
    request = forget_request("f", domains[:2], cells=[("domain-1", 5)])
    exam = world.noise((5, 7), 2, "test")
    assert exam_of(request, [exam]) is request.reference
    whole = forget_request("f", domains[:2], experiences=["domain-0"])
    assert whole.classes == (2,)
    assert exam_of(whole, [world.noise((5, 2), 2, "test")]).labels.unique().tolist() == [2]


# --- scenarios -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(world, domains):
    return world.Listed(domains)


def taken(scenario):
    return [sorted(s.event.cells) for s in scenario.steps() if isinstance(s.event, ForgetRequest)]


def test_a_window_moves_on_by_what_experiences_brought(listed):
    assert taken(SlidingWindow(listed, window=4)) == [
        [("domain-0", 2), ("domain-0", 5)],
        [("domain-0", 7), ("domain-1", 0), ("domain-1", 5), ("domain-1", 7)],
        [("domain-2", 2), ("domain-2", 5), ("domain-2", 7)],
    ]


def test_a_sequence_takes_every_class_once(listed):
    requests = [
        s.event for s in ForgetSequence(listed, times=2, classes=2).steps() if isinstance(s.event, ForgetRequest)
    ]
    assert [r.classes for r in requests] == [(0, 1), (2, 7)]
    assert {e for e, c in requests[1].cells if c == 7} == {"domain-0", "domain-1", "domain-2"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", ["experience", "class"])
def test_random_requests_take_what_one_experience_brought(what, seed, listed):
    found = taken(RandomInsertion(listed, requests=4, what=what, seed=seed))
    assert [len({e for e, _ in cells}) for cells in found] == [1] * 4
    assert all(len(cells) == 1 for cells in found) or what == "experience"


def test_a_task_on_trial_goes_alone(listed):
    assert taken(CLPU(listed, "R0 T1 R2 F1")) == [[("domain-1", 0), ("domain-1", 5), ("domain-1", 7)]]


def test_a_config_may_ask_for_a_class_of_an_experience(listed):
    request = Request(3, cells=[["domain-1", "class 5"], [2, 0]])
    assert taken(Mixed(listed, [request])) == [[("domain-1", 5), ("domain-2", 0)]]
    with pytest.raises(UserError, match=r"takes cells as \[experience, class\]; found \['domain-1'\]"):
        list(Mixed(listed, [Request(3, cells=[["domain-1"]])]).steps())


def test_a_class_that_comes_again_by_itself_cannot_be_relearned_as_well(listed):
    with pytest.raises(UserError, match=r"'domain-2' brings class 5 again after it is forgotten"):
        list(ForgetThenRelearn(listed, [5], forget_after=2, relearn_after=4).steps())

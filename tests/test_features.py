"""The feature store saves passes and changes no number; what changed or is forgotten leaves it."""

import errno
import os

import pytest
import torch

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.timm import Timm
from cl_framework.engine import loop
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.feature_cache.store import FeatureStore, weights_digest
from cl_framework.models.model import Model
from cl_framework.streams.events import forget_request
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.streams.samples import Rows
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter

IDS = torch.tensor([3, 1, 7])


@pytest.fixture
def store():
    found = FeatureStore()
    found.write("aa/s", IDS, torch.arange(6.0).view(3, 2))
    found.write("bare/s", IDS[:1], torch.full((1, 2), 9.0))
    found.write("aa+bb/s", IDS[:1], torch.full((1, 2), 8.0))
    found.write("aa/other/split", IDS[:1], torch.full((1, 2), 7.0))
    return found


def keys(store):
    return {k.removesuffix("/ids") for k in store.state() if k.endswith("/ids")}


def met(world, events, strategy, budget, folder=None):
    learner = world.learner(strategy, DropAdapter())
    learner.model.store = FeatureStore(budget, folder)
    journal = world.Listener(learner)
    loop.run_stream(learner, world.Listed(events), world.make_trainer, Evaluator(), journal, 8)
    return learner, journal


def test_features_are_found_by_key_and_sample_in_any_order(store):
    assert store.known("aa/s", torch.tensor([7, 8, 3])).tolist() == [True, False, True]
    assert store.read("aa/s", torch.tensor([7, 3])).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert not store.known("nowhere", IDS).any()


def test_the_budget_is_respected():
    store = FeatureStore(budget=20)
    store.write("a", IDS[:2], torch.zeros(2, 2))
    store.write("a", IDS[2:], torch.zeros(1, 2))
    assert store.bytes == 16
    assert store.known("a", IDS).tolist() == [True, True, False]
    off = FeatureStore(0)
    off.write("a", IDS, torch.zeros(3, 2))
    assert off.state() == {}


def test_stored_features_are_copies(store):
    z = torch.zeros(1, 2)
    store.write("x/s", torch.tensor([1]), z)
    z += 1
    assert store.read("x/s", torch.tensor([1])).tolist() == [[0.0, 0.0]]


def test_no_stored_feature_keeps_another_one_in_memory(store):
    """A row that is a view would keep what is forgotten alive beside it."""
    store.drop("s", torch.tensor([3]))
    rows = store.state()["aa/s/rows"]
    assert rows.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert rows.untyped_storage().nbytes() == rows.numel() * rows.element_size()


def test_features_of_adapters_that_are_gone_are_dropped(store):
    store.keep_only(["aa", "bare"])
    assert keys(store) == {"aa/s", "bare/s", "aa/other/split"}
    store.keep_only(["bare"])
    assert keys(store) == {"bare/s"}
    assert store.bytes == 8


def test_features_made_under_another_stack_of_edits_are_dropped():
    store, one = FeatureStore(), (torch.tensor([1]), torch.zeros(1, 2))
    for key in ("bare/s", "aa/s", "e1/s", "aa+e1/s", "aa+e1+e2/s", "aa+e2/s", "e1+e2/s"):
        store.write(key, *one)
    store.keep_only(["aa", "e1", "e2", "bare"], ["e1", "e2"])
    assert keys(store) == {"aa+e1+e2/s", "e1+e2/s"}
    store.keep_only(["aa", "e1", "bare"], ["e1"])
    assert keys(store) == set()


def test_features_of_forgotten_samples_are_dropped_in_every_space(store):
    store.drop("s", torch.tensor([3, 99]))
    assert keys(store) == {"aa/s", "aa/other/split"}
    assert store.known("aa/s", IDS).tolist() == [False, True, True]
    assert store.bytes == 24


def test_a_store_survives_a_round_trip(store):
    other = FeatureStore()
    other.write("old/s", IDS, torch.zeros(3, 2))
    other.load(store.state())
    assert keys(other) == keys(store)
    assert other.bytes == store.bytes
    assert torch.equal(other.read("aa/s", IDS), store.read("aa/s", IDS))


def test_a_digest_tells_adapters_apart_by_their_weights(world, stream):
    model = world.learn(world.learner(EASE()), stream[:2]).model
    one, two = model.digests(["task-0", "task-1"])
    assert one != two
    assert weights_digest(None) == "bare"
    with torch.no_grad():
        model.adapters.params("task-0")[0].view(-1)[0] += 1e-6
    assert model.digests(["task-0"]) != [one]


@pytest.mark.parametrize("where", ["memory", "disk", "both"])
def test_what_does_not_fit_in_memory_lies_in_files_without_a_name(where, tmp_path):
    store = FeatureStore({"memory": 2**20, "disk": 1, "both": 700}[where], tmp_path)
    ids = torch.randperm(1000)
    for part in ids.split(7):
        for key in ("aa/s", "bare/s"):
            store.write(key, part, part[:, None] + torch.arange(3.0))
    assert store.bytes <= store.budget
    assert store.bytes + store.spilled == 2 * 1000 * 3 * 4
    assert (store.spilled > 0) is (where != "memory")
    assert list(tmp_path.iterdir()) == []
    assert store.state()["aa/s/ids"].tolist() == ids.tolist()
    store.drop("s", ids[:500])
    other = FeatureStore(1, tmp_path)
    other.load(store.state())
    for one in (store, other):
        assert one.known("bare/s", ids).tolist() == [False] * 500 + [True] * 500
        assert one.read("bare/s", ids[900:]).tolist() == [[i, i + 1, i + 2] for i in ids[900:].tolist()]
        assert one.bytes + one.spilled == 2 * 500 * 3 * 4


def test_a_disk_that_is_full_costs_passes_and_nothing_else(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = FeatureStore(16, tmp_path, limit=48)
    store.write("a/s", IDS, torch.arange(6.0).view(3, 2))
    store.write("a/s", IDS + 10, torch.arange(6.0).view(3, 2))
    store.write("a/s", IDS + 20, torch.arange(6.0).view(3, 2))  # beyond the limit
    monkeypatch.setattr(os, "posix_fallocate", full)
    store.write("b/s", IDS, torch.arange(6.0).view(3, 2))
    assert [store.known(k, i).tolist() for k, i in (("a/s", IDS), ("a/s", IDS + 10))] == [[True] * 3] * 2
    assert not store.known("a/s", IDS + 20).any()
    assert not store.known("b/s", IDS).any()
    store.drop("s", IDS[:1])
    assert not store.known("a/s", IDS).any(), "what cannot be kept without what must go, goes with it"


def test_a_sample_that_is_written_twice_is_kept_once():
    store = FeatureStore()
    store.write("a/s", torch.tensor([4, 2, 4]), torch.tensor([[1.0], [2.0], [1.0]]))
    store.write("a/s", torch.tensor([2, 3]), torch.tensor([[2.0], [3.0]]))
    assert store.state()["a/s/ids"].tolist() == [4, 2, 3]
    assert store.read("a/s", torch.tensor([3, 2, 4, 2])).tolist() == [[3.0], [2.0], [1.0], [2.0]]


@pytest.mark.parametrize("strategy", [EASE, Finetune])
def test_files_in_place_of_memory_change_no_number_and_no_pass(strategy, world, stream, tmp_path):
    events = [
        *stream[:3],
        *([forget_request("f", stream[:3], classes=[2], samples=[7001])] if strategy is EASE else []),
    ]
    one, in_memory = met(world, events, strategy(), 2**20)
    for budget in (1, 3000):
        two, on_disk = met(world, events, strategy(), budget, tmp_path)
        assert world.differences(one, two) == []
        assert on_disk.measurements == in_memory.measurements
        assert [c.passes for c in on_disk.costs] == [c.passes for c in in_memory.costs]
        assert two.model.store.spilled > 0 or budget > 1


@pytest.mark.parametrize("strategy", [EASE, Finetune])
@pytest.mark.parametrize("budget", [0, 3000], ids=["off", "too small"])
def test_the_store_changes_no_number(strategy, budget, world, stream):
    events = [
        *stream[:3],
        *([forget_request("f", stream[:3], classes=[2], samples=[7001])] if strategy is EASE else []),
    ]
    (on, with_store), (off, without) = met(world, events, strategy(), 2**20), met(world, events, strategy(), budget)
    assert world.differences(on, off) == []
    assert with_store.measurements == without.measurements
    spent = [sum(c.passes["evaluate"] for c in j.costs) for j in (with_store, without)]
    assert spent[0] < spent[1] or strategy is Finetune
    assert off.model.store.bytes <= budget


def test_a_frozen_pass_found_in_the_store_equals_one_that_is_not(world, stream):
    model = world.learn(world.learner(EASE()), stream[:1]).model
    data = world.noise(range(8), 12, "test")

    def ask(rows, key="noise/test"):
        rows = torch.tensor(rows)
        return model.features(Inputs(lambda: data[rows.tolist()].x, data.ids[rows], key), "task-0")

    ask([4, 90, 17])
    before = model.passes["statistics"]
    mixed = ask(range(96))
    assert model.passes["statistics"] - before == 93
    assert torch.equal(mixed, ask(range(96), key=None))
    assert torch.equal(mixed[[17, 4]], ask([17, 4]))


@pytest.mark.parametrize(
    "body", [GlyphViT, lambda: Timm("test_vit", pretrained=False, image_size=32)], ids=["glyph", "timm"]
)
@pytest.mark.parametrize("kind", [Bottleneck(8), LoRA(4)], ids=["Bottleneck", "LoRA"])
def test_a_feature_of_a_transformer_does_not_depend_on_its_company(body, kind):
    torch.manual_seed(0)
    model, x = Model(body(), kind), torch.rand(150, 3, 32, 32)
    model.adapters.add("a")
    with torch.no_grad():
        for p in model.adapters.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    z = model.features(Inputs(lambda: x, torch.arange(150)), "a")
    order = torch.randperm(150)
    assert torch.equal(model.features(Inputs(lambda: x[order], order), "a"), z[order])
    for rows in ([3], [149, 7, 64], list(range(60, 140))):
        assert torch.equal(model.features(Inputs(lambda r=rows: x[r], torch.tensor(rows)), "a"), z[rows])


@pytest.mark.parametrize("budget", [2**20, 1], ids=["memory", "disk"])
def test_ease_evaluates_each_pair_of_test_image_and_adapter_once(budget, world, stream, tmp_path):
    _, journal = met(world, stream, EASE(), budget, tmp_path)
    images = [12] * 4  # of each exam
    assert sum(c.passes["evaluate"] for c in journal.costs) == 4 * sum(images)
    for i, cost in enumerate(journal.costs):  # the new exam under all adapters, the new adapter on all earlier exams
        assert cost.passes["evaluate"] == images[i] * (i + 1) + sum(images[:i])


def test_ease_measures_each_training_image_once_in_each_space_up_to_its_own(world, stream):
    _, journal = met(world, stream, EASE(), 2**20)
    assert [c.passes["statistics"] for c in journal.costs] == [20 * (i + 1) for i in range(4)]
    assert [c.passes["train"] for c in journal.costs] == [20 * 2] * 4


@pytest.mark.parametrize("asked", [{"classes": [2]}, {"samples": [2001, 7003]}, {"experiences": ["task-1"]}], ids=str)
def test_nothing_of_what_was_forgotten_stays_in_the_store(asked, world, stream):
    request = forget_request("f", stream[:3], **asked)
    learner, _ = met(world, [*stream[:3], request], EASE(), 2**20)
    held = {k: set(v.tolist()) for k, v in learner.model.store.state().items() if k.endswith("/ids")}
    trained = {k: ids for k, ids in held.items() if "noise/train" in k}
    tested = {k: ids for k, ids in held.items() if "noise/test" in k}
    assert not any(ids & set(request.data.ids.tolist()) for ids in trained.values())
    assert not any(i // 1000 in request.classes for ids in tested.values() for i in ids)
    live = {*learner.model.digests(learner.model.adapters), "bare"}
    assert {k.split("/")[0] for k in held} <= live
    assert any("noise/train" in k for k in held)
    assert any("noise/test" in k for k in held)


def test_a_request_over_two_sources_leaves_neither_in_the_store(world, stream):
    """Class and sample ids of different sources may meet in one request; each is filed under its own source."""
    one, two = stream[:2]
    other = Rows(two.reference.x, two.reference.labels, two.reference.ids, "elsewhere")
    events = [one, type(two)(two.name, two.classes, other, other)]
    request = forget_request("f", events, classes=[2, 7])
    learner, _ = met(world, [*events, request], SimpleCIL(), 2**20)
    stored = learner.model.store.state()
    held = {i for k, v in stored.items() if k.endswith("/ids") and "test" not in k for i in v.tolist()}
    assert held
    assert not held & set(request.data.ids.tolist())


def test_samples_without_a_stable_name_are_never_remembered(world, stream):
    learner = world.learn(world.learner(EASE()), stream[:1])
    stored = learner.model.store.bytes
    data = world.noise((5, 2), 4, "test")
    learner.answer(Rows(data.x, data.labels, data.ids, None))
    assert learner.model.store.bytes == stored


def test_an_adapter_that_goes_on_learning_is_measured_again(world, stream):
    learner, _ = met(world, stream[:3], Finetune(), 2**20)
    adapters = {k.split("/")[0] for k in learner.model.store.state()}
    assert adapters == set(learner.model.digests(["shared"]))


def test_an_empty_set_of_samples_has_an_empty_answer(world, stream):
    learner = world.learn(world.learner(EASE()), stream[:1])
    assert learner.answer(world.noise((5, 2), 4, "test").of([])).tolist() == []


def test_scrubbing_follows_the_exam_too(world, stream):
    learner = world.learn(world.learner(EASE(), DropAdapter()), stream[:1])
    exam = world.noise((2,), 5, "test")
    learner.answer(exam)
    request = forget_request("f", stream[:1], classes=[2])
    world.learn(learner, [request], stream[:1])
    loop.scrub(learner, request, exam)
    assert not any("noise/test" in k for k in learner.model.store.state())


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_frozen_passes_compute_in_the_precision_of_training_and_depend_on_no_company(precision):
    torch.manual_seed(0)
    model = Model(GlyphViT(), Bottleneck())
    model.frozen.precision = precision
    x = torch.rand(70, 3, 32, 32)
    whole = model.features(Inputs(lambda: x, torch.arange(70)), ())
    alone = model.features(Inputs(lambda: x[66:67], torch.tensor([66])), ())
    assert whole.dtype == torch.float32
    assert torch.equal(whole[66:67], alone)
    with torch.no_grad():
        single = model.backbone(x)
    assert torch.allclose(whole, single, atol=1e-5) is (precision is None)
    assert torch.allclose(whole, single, atol=0.2)

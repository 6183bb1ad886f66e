"""Streams that begin with what a pre-trained classifier knows, and forget without having learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch.nn.functional import normalize

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones.glyph import GlyphViT
from cl_framework.backbones.timm import Timm
from cl_framework.engine import loop
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.methods.compatibility import check_events, check_request
from cl_framework.streams.events import Step, forget_request
from scenarios.class_incremental import ClassIncremental
from scenarios.data import glyphs
from scenarios.data.open import open_source
from scenarios.forget_sequence import ForgetSequence
from scenarios.mixed import Mixed
from scenarios.pretrained import Pretrained
from scenarios.requests import Request
from scenarios.sliding_window import SlidingWindow
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.joint import Joint
from strategies.learning.simplecil import SimpleCIL
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.neg_grad import NegGradPlus
from strategies.unlearning.retrain import Retrain

KNOWN = "glyphs:known=true,classes=20,train=2,test=5"


def stream(**options) -> ClassIncremental:
    """Twenty characters of pre-training in shuffled order, all at once unless told otherwise."""
    return ClassIncremental(KNOWN, **{"increment": 20, **options})


def learner(unlearner=None, strategy=None, head="cosine") -> Learner:
    return Learner(GlyphViT(), Bottleneck(4), strategy or Finetune(), unlearner, head=head)


def follow(world, make_trainer, who: Learner, scenario):
    """Carry out a scenario and return what happened."""
    heard = world.Listener(who)
    loop.run_stream(who, scenario, make_trainer, Evaluator(), heard, 8)
    return heard


# --- the data -------------------------------------------------------------------------------------------------------


def test_class_c_of_the_known_characters_is_row_c_of_the_head():
    source, backbone = open_source("glyphs:known=true,classes=30,train=1,test=10"), GlyphViT()
    with torch.no_grad():
        z = normalize(backbone(source.test.images.float() / 255), dim=-1)
    rows = normalize(backbone.classifier()["weight"], dim=-1)
    assert ((z @ rows.T).argmax(1) == source.test.labels).float().mean() > 0.85  # among all 2102


def test_turned_and_mirrored_characters_are_rows_of_the_head_too():
    everything, backbone = glyphs.pretraining(), GlyphViT()
    firsts = [next(i for i, (turn, _) in enumerate(everything) if turn == t) for t in range(1, 5)]
    chosen = [row for first in firsts for row in range(first - 1, first + 3)]  # both sides of every border
    atlas = glyphs.turned([everything[row] for row in chosen])
    drawn = torch.cat([glyphs.draw_pictures(atlas, i, str(i), 10, glyphs.PLAIN) for i in range(len(chosen))])
    with torch.no_grad():
        scores = backbone(drawn.float() / 255) @ normalize(backbone.classifier()["weight"], dim=-1).T
    assert (scores.argmax(1) == torch.tensor(chosen).repeat_interleave(10)).float().mean() > 0.8
    names = [c + glyphs.TURNS[turn] for turn, c in everything]
    assert len(set(names)) == len(names) == 2102


def test_a_quarter_turn_turns_the_maps():
    atlas = glyphs.turned([(0, "F"), (1, "F"), (4, "F")])
    upright, quarter, mirrored = (atlas.edge[atlas.character == i] for i in range(3))
    assert torch.equal(quarter, torch.rot90(upright, 1, (1, 2)))
    assert torch.equal(mirrored, upright.flip(2))


def test_known_characters_are_not_those_of_other_streams():
    plain, known = (open_source(f"glyphs:{o}classes=4,train=2,test=2") for o in ("", "known=true,"))
    assert not set(plain.class_names) & set(known.class_names)
    more = open_source("glyphs:known=true,classes=6,train=3,test=2")
    assert torch.equal(more.train.images[:2], known.train.images[:2])
    with pytest.raises(UserError, match="1 to 2102 classes, found classes=2103"):
        open_source("glyphs:known=true,classes=2103")


# --- taking it up ---------------------------------------------------------------------------------------------------


def test_only_the_first_experience_is_marked():
    first, second = Pretrained(stream(increment=10)).steps()
    assert first.event.inherited == {c: c for c in first.event.classes}
    assert not second.event.inherited
    plain = next(stream(increment=10).steps())
    assert (first.event.name, first.event.classes) == (plain.event.name, plain.event.classes)
    moved = {c: 100 - c for c in first.event.classes}
    assert next(Pretrained(stream(increment=10), moved).steps()).event.inherited == moved
    with pytest.raises(UserError, match=f"no row for class {first.event.classes[1]}"):
        Pretrained(stream(), {first.event.classes[0]: 0}).steps()


def test_gs_loras_protocol_forgets_without_learning_first(world, make_trainer):
    scenario = ForgetSequence(Pretrained(stream()), times=2, classes=4)
    order = next(stream().steps()).event.classes
    heard = follow(world, make_trainer, learner(NegGradPlus(epochs=1, keep_rows=True)), scenario)
    start, first, second = heard.measurements
    assert (start.kind, start.classes, heard.costs[0].steps) == ("learn", order, 0)
    assert sum(r for r, _ in start.hits.values()) / sum(t for _, t in start.hits.values()) > 0.9
    assert (set(first.classes), set(second.classes)) == (set(order[-4:]), set(order[-8:-4]))
    assert first.forget.accuracy_before > 0.8
    assert set(second.hits) == set(order[:-8])
    assert second.old.keys() == {"forget-0"}


def test_the_adapter_it_begins_with_changes_nothing(world, make_trainer):
    who = learner()
    follow(world, make_trainer, who, Pretrained(stream()))
    exam = next(stream().steps()).exam
    rows = normalize(who.model.backbone.classifier()["weight"], dim=-1)[list(who.model.classes)]
    with torch.no_grad():
        cosines = normalize(who.model.backbone(exam[range(len(exam))].x), dim=-1) @ rows.T
    assert torch.equal(who.answer(exam), torch.tensor(who.model.classes)[cosines.argmax(1)])


def test_more_can_be_learned_afterwards_and_forgotten_exactly(world, make_trainer):
    scenario = Mixed(Pretrained(stream(base=12, increment=4)), [Request(2, experiences=["task-1"])])
    who = learner(Retrain())
    follow(world, make_trainer, who, scenario)
    first, _, third = (s.event for s in Pretrained(stream(base=12, increment=4)).steps())
    never = world.learn(learner(), [first, third])
    assert list(who.model.known.items()) == list(never.model.known.items())
    for (name, a), b in zip(who.model.state_dict().items(), never.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_window_can_begin_with_what_is_known(world, make_trainer):
    scenario = SlidingWindow(Pretrained(stream(base=12, increment=4)))
    measurements = follow(world, make_trainer, learner(NegGradPlus(epochs=1)), scenario).measurements
    assert [(m.kind, len(m.hits)) for m in measurements] == [
        ("learn", 12), ("learn", 16), ("forget", 12), ("learn", 16), ("forget", 12)
    ]  # fmt: skip


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [SimpleCIL, EASE])
def test_strategies_without_a_shared_head_refuse_it(strategy, world):
    with pytest.raises(UserError, match=f"{strategy.__name__} has no shared head to take it up; use Finetune"):
        world.learn(learner(strategy=strategy()), [next(Pretrained(stream()).steps()).event])


def test_a_head_of_another_kind_is_refused(world):
    with pytest.raises(UserError, match="is cosine and the head linear; set `model"):
        world.learn(learner(head="linear"), [next(Pretrained(stream()).steps()).event])


def test_a_row_that_does_not_exist_is_refused(world):
    first = next(Pretrained(stream()).steps()).event
    with pytest.raises(UserError, match="2102 rows and row 5000"):
        world.learn(learner(), [replace(first, inherited={**first.inherited, first.classes[0]: 5000})])


def test_a_backbone_without_a_classifier_is_refused(world):
    event = replace(world.experience(0), inherited={5: 0, 2: 1})
    with pytest.raises(UserError, match="tiny has no pre-trained classifier"):
        world.learn(world.learner(Finetune()), [event])


@pytest.mark.parametrize("kind", [Retrain, DropAdapter])
def test_what_the_backbone_has_seen_cannot_be_forgotten_exactly(kind, world):
    known, learned = replace(world.experience(0), inherited={5: 0, 2: 1}), world.experience(1)
    who = world.learner(SimpleCIL(), kind())
    for gone in ({"classes": [5]}, {"samples": [5000]}, {"classes": [5, 7]}):
        with pytest.raises(UserError, match="the backbone itself was pre-trained on it; nothing here can"):
            check_request(who.model, who.strategy, who.unlearner, forget_request("gone", [known, learned], **gone))
    possible = forget_request("gone", [known, learned], classes=[7])
    assert check_request(who.model, who.strategy, who.unlearner, possible) is who.unlearner


def test_exams_of_what_is_inherited_are_like_any_other():
    marked, plain = next(Pretrained(stream()).steps()), next(stream().steps())
    assert isinstance(marked, Step)
    assert torch.equal(marked.exam.labels, plain.exam.labels)
    assert Pretrained(stream()).fingerprint() == stream().fingerprint() != ""


def test_what_cannot_begin_is_refused_before_anything_is_written(world):
    first = next(Pretrained(stream()).steps()).event
    for who, told in ((learner(strategy=SimpleCIL()), "no shared head"), (learner(head="linear"), "is cosine")):
        with pytest.raises(UserError, match=told):
            check_events(who.model, who.strategy, who.unlearner, [first])
        assert who.model.known == {}


def test_a_lesson_reads_the_classifier_once(world, monkeypatch):
    who, asked, held = learner(), [], GlyphViT().classifier()
    monkeypatch.setattr(GlyphViT, "classifier", lambda _: asked.append(1) or held)
    world.learn(who, [next(Pretrained(stream()).steps()).event])
    assert asked == [1]


def test_timm_builds_the_whole_model_for_its_classifier_once(monkeypatch):
    backbone, built, create = Timm("test_vit", pretrained=False, image_size=32), [], timm.create_model
    backbone.tagged = True  # as if its random weights had been a tag's
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: built.append(a) or create(*a, **k))
    assert backbone.classifier() is backbone.classifier() is not None
    assert len(built) == 1


def test_joint_goes_on_rehearsing_what_it_inherited(world):
    first = next(Pretrained(stream(base=4, increment=4)).steps())
    who = world.learn(learner(strategy=Joint()), [first.event])
    assert set(who.strategy.memory.all().ids.tolist()) == set(first.event.data.ids.tolist())

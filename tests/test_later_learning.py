"""Later learning is what it would be had what was forgotten never been met, and one that fails changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cl_framework.engine import checkpoint
from cl_framework.settings import discovery
from cl_framework.streams.events import surviving
from cl_framework.streams.later import Later, LaterRequest
from cl_framework.streams.samples import Samples
from cl_framework.streams.timeline import Timeline
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.learning.ranpac import RanPAC
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.retrain import Retrain

LEARN = Later(learn=[], data="")
WAYS = [(EASE, DropAdapter), (Finetune, Retrain), (lambda: RanPAC(expansion=8, ridge="published"), Retrain)]


def met(world, strategy, unlearner, timeline):
    """A learner after a stream."""
    return world.learn(world.learner(strategy(), unlearner()), [s.event for s in timeline.steps()])


@pytest.mark.parametrize(("strategy", "unlearner"), WAYS)
def test_what_is_learned_after_an_exact_request_is_what_is_learned_without_what_it_took(
    strategy, unlearner, world, stream
):
    gone, more = stream[0].classes[0], world.Listed([stream[2]])
    asked = [Later(LaterRequest(classes=[gone])), Later(LaterRequest(experiences=["task-1"])), LEARN]
    one = met(world, strategy, unlearner, Timeline(world.Listed(stream[:2]), asked, [more]))
    rest = Timeline(world.Listed([stream[0].without([gone])]), [LEARN], [more])
    other = met(world, strategy, unlearner, rest)
    assert moved(one) == moved(other)
    for name, tensor in checkpoint.tensors(other).items():
        if ".ids" not in name:  # an id is never given twice, so that those of later samples differ
            assert torch.equal(tensor, checkpoint.tensors(one)[name]), name


def moved(learner):
    return list(checkpoint.tensors(learner)), learner.model.known, list(learner.model.adapters)


@pytest.mark.parametrize(("strategy", "unlearner"), WAYS)
def test_so_it_is_where_a_whole_learn_request_was_forgotten_whose_name_stays_taken(strategy, unlearner, world, stream):
    first, middle, last = (world.Listed([e]) for e in (stream[0], stream[1], stream[2]))
    asked = [LEARN, Later(LaterRequest(experiences=["more-0-task-1"])), LEARN]
    one = Timeline(first, asked, [middle, last])
    names = [s.event.name for s in one.steps()]
    assert names == ["task-0", "more-0-task-1", "forget-0", "more-1-task-2"]
    *_, newest = surviving(one.steps())
    assert newest.seed_source == "more-0-task-2"
    assert newest.without(ids=newest.data.ids[:1]).seed_source == newest.seed_source, "also when it is made again"
    other = met(world, strategy, unlearner, Timeline(first, [LEARN], [last]))
    here, there = checkpoint.tensors(met(world, strategy, unlearner, one)), checkpoint.tensors(other)
    old = [t for k, t in here.items() if ".ids" not in k]
    new = [t for k, t in there.items() if ".ids" not in k]
    assert len(old) == len(new)
    assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


class Broken(Exception):
    """What a method runs into."""


class Unreadable(Samples):
    """Samples that cannot be read any more after so many looks."""

    def __init__(self, whole, looks):
        self.whole, self.looks = whole, looks
        self.labels, self.ids, self.key = whole.labels, whole.ids, None

    def __getitem__(self, rows):
        self.looks -= 1
        if self.looks < 0:
            raise Broken
        return self.whole[rows]


@pytest.mark.parametrize("name", [entry.name for entry in discovery.catalogue("strategies")])
def test_a_lesson_that_fails_leaves_nothing_behind(name, world, stream):
    strategy = discovery.load_class("strategies", name)
    learner = world.learn(world.learner(strategy()), stream[:2])
    test = world.noise(range(8), 2, "test")
    answers = world.scores(learner, test)
    before, told = world.clone(checkpoint.tensors(learner)), checkpoint.facts(learner)
    looks = 1 if learner.strategy.competes else 0  # within training, where there is some
    unread = replace(stream[2], data=Unreadable(stream[2].data, looks), reference=Unreadable(stream[2].reference, 0))
    with pytest.raises(Broken):
        world.learn(learner, [unread], stream[:2])
    assert checkpoint.facts(learner) == told
    assert list(checkpoint.tensors(learner)) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in checkpoint.tensors(learner).items())
    assert torch.equal(world.scores(learner, test), answers)
    world.learn(learner, [stream[2]], stream[:2])
    assert set(stream[2].classes) <= set(learner.model.classes)

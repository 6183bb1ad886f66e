"""A run's stream and what was asked of it later."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from msgspec import structs

from cl_framework.errors import UserError
from cl_framework.streams.events import Experience, ForgetRequest, Step, forget_request, surviving
from cl_framework.streams.identity import hidden_as
from cl_framework.streams.later import Later, LaterRequest
from cl_framework.streams.samples import Rows
from cl_framework.streams.scenario import Scenario
from cl_framework.streams.timeline import Timeline

LEARN = Later(learn=[], data="")


def test_a_later_stream_keeps_all_that_it_says(world, stream):
    again = replace(stream[2], inherited={1: 40, 6: 41}, relearned={1: 6})
    wish = forget_request("f", [again], classes=[1], missing=["retain"])
    timeline = Timeline(world.Listed(stream[:2]), [LEARN], [world.Listed([again, wish])])
    *_, learned, forgotten = (s.event for s in timeline.steps())
    assert isinstance(learned, Experience)
    assert isinstance(forgotten, ForgetRequest)
    assert (learned.classes, learned.inherited, learned.relearned) == ((1, 6), {1: 40, 6: 41}, {1: 6})
    assert (forgotten.classes, forgotten.missing, forgotten.inherited) == ((1,), {"retain"}, True)


def test_learning_goes_on_after_an_experience_that_brought_nothing(world, stream):
    whole = stream[1]
    nothing = replace(whole, classes=(), data=whole.data.of(()), reference=whole.reference.of(()))
    *_, last = Timeline(world.Listed([stream[0], nothing]), [LEARN], [world.Listed([stream[2]])]).steps()
    assert int(last.event.data.ids.min()) > int(stream[0].data.ids.max())


class Named(Scenario):
    """Experiences that bring classes by name, two samples of each; ids count from 0 on, as in any stream."""

    def __init__(self, *experiences):
        self.experiences = experiences
        self.own = list(dict.fromkeys(name for names in experiences for name in names))
        self.class_names = list(self.own)

    def steps(self):
        for t, names in enumerate(self.experiences):
            classes = tuple(self.own.index(name) for name in names)
            labels = torch.tensor(classes).repeat(2)
            data = Rows(torch.rand(len(labels), 1), labels, 100 * t + torch.arange(len(labels)), f"named/{t}")
            yield Step(Experience(f"task-{t}", classes, data, data), data)


def test_a_class_that_is_alive_is_the_same_class_whoever_brings_it():
    timeline = Timeline(Named(["cat", "dog"]), [LEARN, LEARN], [Named(["fox", "dog"]), Named(["fox"], ["elk", "cat"])])
    events = [s.event for s in timeline.steps()]
    assert [e.classes for e in events] == [(0, 1), (2, 1), (2,), (3, 0)]
    assert timeline.class_names == ["cat", "dog", "fox", "elk"]
    assert [sorted(set(e.data.labels.tolist())) for e in events] == [[0, 1], [1, 2], [2], [0, 3]]
    ids = [i for e in events for i in e.data.ids.tolist()]
    assert len(ids) == len(set(ids))
    assert all(sorted(set(s.exam.labels.tolist())) == sorted(s.event.classes) for s in timeline.steps())


def test_a_name_that_no_class_bore_yet_takes_the_id_that_was_set_aside_for_it():
    first = Named(["cat", "dog"], ["fox"])
    first.experiences = first.experiences[:1]
    timeline = Timeline(first, [LEARN], [Named(["fox"])])
    assert [s.event.classes for s in timeline.steps()] == [(0, 1), (2,)]
    assert timeline.class_names == ["cat", "dog", "fox"]


def test_a_forgotten_class_comes_back_under_a_new_id_and_is_one_class_from_then_on():
    asked = [Later(LaterRequest(classes=[0])), LEARN, LEARN]
    timeline = Timeline(Named(["cat", "dog"]), asked, [Named(["cat"]), Named(["cat"])])
    *_, back, more = (s.event for s in timeline.steps())
    assert (back.classes, back.relearned) == ((2,), {2: 0})
    assert (more.classes, more.relearned) == ((2,), {})
    assert timeline.class_names == ["cat", "dog", "cat"]


def test_a_prefix_makes_classes_of_their_own():
    timeline = Timeline(Named(["cat", "dog"]), [structs.replace(LEARN, as_new="lab-")], [Named(["dog", "fox"])])
    assert [s.event.classes for s in timeline.steps()] == [(0, 1), (2, 3)]
    assert timeline.class_names == ["cat", "dog", "lab-dog", "lab-fox"]


def test_a_request_within_a_later_stream_takes_the_class_that_its_name_means():
    class Forgetting(Named):
        def steps(self):
            (step,) = super().steps()
            yield step
            event = forget_request("forget-0", [step.event], [self.class_names.index("dog")])
            yield Step(event, step.exam.of(event.classes))

    timeline = Timeline(Named(["cat", "dog"]), [LEARN], [Forgetting(["fox", "dog"])])
    *_, (*_, gone) = [[s.event for s in timeline.steps()]]
    assert gone.classes == (1,)
    assert gone.experiences == ("task-0", "more-0-task-0")
    assert {c for e in surviving(timeline.steps()) for c in e.classes} == {0, 2}


def test_two_live_classes_of_one_name_are_refused():
    twice = Named(["cat", "dog"])
    twice.class_names = ["cat", "cat"]
    twice.experiences = [["cat"]]
    twice.steps = lambda: iter([Step(_both(), _both().data)])
    with pytest.raises(UserError, match=r"id:0 and id:1 would both be called 'cat'"):
        list(Timeline(twice).steps())


def _both():
    data = Rows(torch.rand(2, 1), torch.tensor([0, 1]), torch.arange(2), "both")
    return Experience("task-0", (0, 1), data, data)


@pytest.mark.parametrize("seed", range(40))
def test_no_two_live_classes_share_a_name_whatever_is_asked(seed):
    """Random sequences of learning, forgetting, learning again and anew, against a set of names."""
    rng = random.Random(seed)
    names = ["cat", "dog", "fox", "elk", "lab-cat", "10", "2"]

    def some():
        return rng.sample(names, rng.randint(1, 3))

    first, later, streams = Named(*(some() for _ in range(rng.randint(1, 2)))), [], []
    alive = {name for e in first.experiences for name in e}
    for _ in range(12):
        act = rng.choice(["learn", "learn", "as_new", "forget class", "forget experience"])
        timeline = Timeline(first, later, streams)
        past = surviving(timeline.steps())
        if act in ("learn", "as_new"):
            prefix = rng.choice(["lab-", "x"]) if act == "as_new" else ""
            streams.append(Named(*(some() for _ in range(rng.randint(1, 2)))))
            later.append(structs.replace(LEARN, as_new=prefix) if prefix else LEARN)
            alive |= {prefix + name for e in streams[-1].experiences for name in e}
        elif len(alive) > 1 and act == "forget class":
            gone = rng.choice(sorted(alive))
            (c,) = {c for e in past for c in e.classes if timeline.class_names[c] == gone}
            later.append(Later(LaterRequest(classes=[c])))
            alive -= {gone}
        elif len(past) > 1 and act == "forget experience":
            later.append(Later(LaterRequest(experiences=[rng.choice(past).name])))
            left = surviving(Timeline(first, later, streams).steps())
            alive = {timeline.class_names[c] for e in left for c in e.classes}
        timeline = Timeline(first, later, streams)
        now = {c for e in surviving(timeline.steps()) for c in e.classes}
        assert sorted(timeline.class_names[c] for c in now) == sorted(alive)
    steps = [s.event for s in timeline.steps()]
    ids = [i for e in steps if isinstance(e, Experience) for i in e.data.ids.tolist()]
    assert len(ids) == len(set(ids)), "an id of a sample is given once"
    assert len({e.name for e in steps}) == len(steps), "and so is a name of an event"


def test_ids_stay_what_they_were_where_names_of_forgotten_classes_are_gone():
    streams = [Named(["fox", "dog"]), Named(["dog", "fox"])]
    timeline = Timeline(Named(["cat", "dog"]), [LEARN], streams[:1]).settled()
    assert timeline.later[0].ids == [[2, 1]]
    longer = [*timeline.later, Later(LaterRequest(classes=[1])), LEARN]
    timeline = Timeline(timeline.first, longer, streams).settled()
    assert (timeline.later[2].ids, timeline.later[2].again) == ([[3, 2]], [(3, 1)])
    told = [(s.event.classes, getattr(s.event, "relearned", None)) for s in timeline.steps()]
    for hidden in ("", "keyed:0"):
        timeline.first.class_names[1] = hidden
        streams[0].class_names[1] = hidden
        bare = Timeline(timeline.first, timeline.later, streams)
        assert [(s.event.classes, getattr(s.event, "relearned", None)) for s in bare.steps()] == told
        assert bare.class_names == ["cat", hidden, "fox", "dog"]
    spoiled = [structs.replace(timeline.later[0], ids=[[7, 1]]), *timeline.later[1:]]
    with pytest.raises(UserError, match=r"'more-0-task-0' gives ids that no class has"):
        list(Timeline(timeline.first, spoiled, streams).steps())


def test_a_name_is_recognised_by_its_keyed_hash():
    key = b"k" * 32
    (hidden,) = hidden_as("dog", key)
    first = Named(["cat", "dog"])
    first.class_names[1] = hidden
    timeline = Timeline(first, [Later(LaterRequest(classes=[1])), LEARN], [Named(["dog"])], key)
    *_, back = (s.event for s in timeline.steps())
    assert back.relearned == {2: 1}

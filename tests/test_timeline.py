"""A run's stream and what was asked of it later."""

from __future__ import annotations

from dataclasses import replace

from cl_framework.stream import Experience, ForgetRequest, forget
from cl_framework.timeline import Timeline

LEARN = [{"learn": [], "data": ""}]


def test_a_later_stream_keeps_all_that_it_says_under_the_new_numbers(world, stream):
    again = replace(stream[2], inherited={1: 40, 6: 41}, relearned={1: 6})
    wish = forget("f", [again], classes=[1], missing=["retain"])
    timeline = Timeline(world.Listed(stream[:2]), LEARN, [world.Listed([again, wish])])
    *_, learned, forgotten = (s.event for s in timeline.steps())
    assert isinstance(learned, Experience)
    assert isinstance(forgotten, ForgetRequest)
    assert (learned.classes, learned.inherited, learned.relearned) == ((9, 14), {9: 40, 14: 41}, {9: 14})
    assert (forgotten.classes, forgotten.missing, forgotten.inherited) == ((9,), {"retain"}, True)


def test_learning_goes_on_after_an_experience_that_brought_nothing(world, stream):
    whole = stream[1]
    nothing = replace(whole, classes=(), data=whole.data.of(()), reference=whole.reference.of(()))
    *_, last = Timeline(world.Listed([stream[0], nothing]), LEARN, [world.Listed([stream[2]])]).steps()
    assert int(last.event.data.ids.min()) > int(stream[0].data.ids.max())

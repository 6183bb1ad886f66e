"""Streams: class orders, task sizes, forget requests, and configuration by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from cl_framework.errors import UserError
from cl_framework.streams.events import Experience, ForgetRequest
from cl_framework.streams.scenario import Scenario
from scenarios.class_incremental import ClassIncremental, class_order, task_sizes
from scenarios.mixed import Mixed
from scenarios.pictures.transforms import Pilot
from scenarios.requests import Request


def groups(**settings) -> list[tuple[int, ...]]:
    """Return the classes of every experience."""
    return [s.event.classes for s in ClassIncremental(**settings).steps()]


def digits() -> ClassIncremental:
    """Five experiences of two digits each, in natural order."""
    return ClassIncremental(order_seed=None)


def forgotten(request: Request) -> ForgetRequest:
    """Put one request into the stream of digits and return it as the learner meets it."""
    return next(s.event for s in Mixed(digits(), [request]).steps() if isinstance(s.event, ForgetRequest))


@pytest.mark.parametrize("requests", [Request(1, classes=[0]), [{"after": 1, "classes": [0]}], None])
def test_requests_are_a_list_of_requests(requests):
    with pytest.raises(UserError, match=r"Mixed takes a list of requests, as in"):
        Mixed(digits(), requests)


@pytest.mark.parametrize("given", [{"classes": 1}, {"experiences": "task-0"}, {"cells": 3}])
def test_a_single_value_in_a_request_is_refused_with_the_list_to_write(given):
    ((name, value),) = given.items()
    with pytest.raises(UserError, match=rf"{name} of a Request must be a list; found {value!r}"):
        Request(after=1, **given)


# --- class-incremental ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "first", "last"),
    [
        (100, [68, 56, 78, 8, 23, 84, 90, 65, 74, 76], [49, 57, 33]),
        (200, [168, 136, 51, 9, 183, 101, 171, 99, 42, 159], [177, 185, 161]),
        (300, [169, 221, 146, 296, 92, 229, 49, 70, 126, 77], [285, 225, 185]),
    ],
)
def test_class_orders_are_those_of_the_published_logs(n: int, first: list[int], last: list[int]):
    order = class_order(n, 1993)
    assert (order[:10], order[-3:]) == (first, last)
    assert sorted(order) == list(range(n))


@pytest.mark.parametrize(
    ("n", "base", "increment", "sizes"),
    [(100, 10, 10, [10] * 10), (100, 50, 20, [50, 20, 20, 10]), (10, 10, 2, [10]), (10, 9, 5, [9, 1])],
)
def test_base_comes_first_and_the_remainder_last(n: int, base: int, increment: int, sizes: list[int]):
    assert task_sizes(n, base, increment) == sizes


def test_class_ids_stay_the_sources_own():
    steps = list(ClassIncremental(base=4, increment=3).steps())
    assert [s.event.name for s in steps] == ["task-0", "task-1", "task-2"]
    assert [s.event.classes for s in steps] == [(4, 2, 7, 6), (0, 3, 5), (8, 9, 1)]
    for step in steps:
        for samples in (step.event.data, step.event.reference, step.exam):
            assert set(samples.labels.tolist()) == set(step.event.classes)


def test_reference_shows_the_same_samples_and_can_be_remembered_while_training_data_cannot():
    step = next(digits().steps())
    data, reference = step.event.data, step.event.reference
    assert torch.equal(data.ids, reference.ids)
    assert torch.equal(data.labels, reference.labels)
    assert data.key is None
    assert reference.key == "digits/train/plain-32"
    assert step.exam.key == "digits/test/plain-32"
    assert torch.equal(reference[[3, 1]].x, reference[[0, 1, 2, 3]].x[[3, 1]])
    assert not torch.equal(data[[0]].x, data[[0]].x)


def test_every_training_and_test_picture_appears_once():
    scenario = ClassIncremental(increment=3)
    steps = list(scenario.steps())
    assert torch.equal(torch.cat([s.event.data.ids for s in steps]).sort().values, torch.arange(1257))
    assert torch.equal(torch.cat([s.exam.ids for s in steps]).sort().values, torch.arange(540))


def test_orders_and_sizes_can_be_given():
    assert groups(order_seed=None, sizes=[1, 6, 3]) == [(0,), (1, 2, 3, 4, 5, 6), (7, 8, 9)]
    assert groups(order=[9, 0, 5], sizes=[1, 2]) == [(9,), (0, 5)]
    assert groups(order_seed=None, base=0, increment=4) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert groups(order_seed=None, classes=3) == [(0, 1), (2,)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [4, 4]}, "sum to 8, but there are 10 classes; make them sum to 10"),
        ({"sizes": [10, 0]}, "needs a class"),
        ({"increment": 0}, "needs a class"),
        ({"base": 11}, "takes 11 classes, but there are only 10"),
        ({"order": [1, 1]}, "names a class twice"),
        ({"order": [1, 12]}, "names class 12, but digits has classes 0 to 9"),
        ({"validation": 1.0}, "found 1.0"),
        ({"classes": 11}, "only 10"),
        ({"dataset": "digit"}, "Did you mean 'digits'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        list(ClassIncremental(**settings).steps())


def test_nothing_is_loaded_before_it_is_used(tmp_path: Path):
    scenario = ClassIncremental(dataset=f"imagefolder:{tmp_path / 'later'}")
    with pytest.raises(UserError, match="no folder"):
        _ = scenario.class_names


def test_validation_examines_held_out_training_pictures():
    steps = list(ClassIncremental(validation=0.2).steps())
    learned = torch.cat([s.event.data.ids for s in steps])
    examined = torch.cat([s.exam.ids for s in steps])
    assert steps[0].exam.key == "digits/train/plain-32"
    assert torch.equal(torch.cat([learned, examined]).sort().values, torch.arange(1257))


def test_two_passes_over_a_stream_are_the_same():
    stream = Mixed(digits(), [Request(2, classes=[1]), Request(4, samples=[0])])
    for one, two in zip(stream.steps(), stream.steps(), strict=True):
        assert (one.event.name, one.event.classes) == (two.event.name, two.event.classes)
        assert torch.equal(one.event.data.ids, two.event.data.ids)
        assert torch.equal(one.exam.ids, two.exam.ids)
        assert torch.equal(one.exam[[0]].x, two.exam[[0]].x)
    assert stream.fingerprint() == digits().fingerprint() != ""


# --- forget requests ------------------------------------------------------------------------------------------------


def test_requests_stand_where_they_are_put():
    requests = [Request("task-3", classes=["6"]), Request(2, experiences=["task-0"]), Request(2, classes=[2])]
    stream = Mixed(digits(), requests)
    names = [s.event.name for s in stream.steps()]
    assert names == ["task-0", "task-1", "forget-0", "forget-1", "task-2", "task-3", "forget-2", "task-4"]
    assert list(stream.class_names) == [str(c) for c in range(10)]


def test_forgetting_a_class_is_examined_on_its_test_pictures():
    steps = list(Mixed(digits(), [Request(2, classes=[3, "0"])]).steps())
    request = steps[2].event
    assert isinstance(request, ForgetRequest)
    assert (request.classes, request.experiences, request.single) == ((0, 3), ("task-0", "task-1"), False)
    assert set(steps[2].exam.labels.tolist()) == {0, 3}
    whole = torch.cat([s.exam.of((0, 3)).ids for s in digits().steps()])
    assert torch.equal(steps[2].exam.ids.sort().values, whole.sort().values)
    assert [e.classes for e in request.remaining] == [(1,), (2,)]
    assert set(request.data.labels.tolist()) == {0, 3}
    assert steps[2].exam.key == "digits/test/plain-32"


def test_forgetting_an_experience_takes_all_its_classes():
    by_name, by_place = (forgotten(Request(3, experiences=[e])) for e in ("task-1", 1))
    assert by_name.classes == by_place.classes == (2, 3)
    assert [e.name for e in by_name.remaining] == ["task-0", "task-2"]


def test_forgetting_samples_is_examined_on_the_samples_themselves(tmp_path: Path):
    first = next(digits().steps()).event
    ids = first.data.ids[:3].tolist()
    (tmp_path / "ids.txt").write_text(f"{ids[0]}, {ids[1]}\n{ids[2]}\n")
    listed = list(Mixed(digits(), [Request(1, samples=ids)]).steps())[1]
    filed = list(Mixed(digits(), [Request(1, samples=str(tmp_path / "ids.txt"))]).steps())[1]
    for step in (listed, filed):
        assert step.event.single
        assert step.exam.ids.tolist() == ids
        assert step.exam is step.event.reference
        assert not torch.isin(torch.tensor(ids), step.event.remaining[0].data.ids).any()
        assert len(step.event.remaining[0].data) == len(first.data) - 3


def test_classes_experiences_and_samples_can_go_at_once():
    sample = int(list(digits().steps())[2].event.data.ids[0])
    event = forgotten(Request(3, classes=[0], experiences=[1], samples=[sample]))
    assert event.classes == (0, 2, 3)
    assert event.experiences == ("task-0", "task-1", "task-2")
    assert sample in event.data.ids.tolist()


def test_later_requests_see_what_earlier_ones_left():
    requests = [Request(1, classes=[0]), Request(3, experiences=["task-0", "task-2"])]
    events = [s.event for s in Mixed(digits(), requests).steps()]
    second = next(e for e in events if e.name == "forget-1")
    assert second.classes == (1, 4, 5)
    assert not set(second.data.labels.tolist()) & {0}


def test_requests_leave_the_experiences_as_they_were():
    plain = list(digits().steps())
    mixed = [s for s in Mixed(digits(), [Request(1, classes=[0])]).steps() if isinstance(s.event, Experience)]
    for a, b in zip(plain, mixed, strict=True):
        assert a.event.classes == b.event.classes
        assert torch.equal(a.event.data.ids, b.event.data.ids)
        assert torch.equal(a.exam.ids, b.exam.ids)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([Request(2, classes=[0]), Request(3, classes=[0])], "Cannot forget class 0: never learned, or already gone"),
        ([Request(1, classes=[9])], "Cannot forget class 9"),
        ([Request(2, experiences=["task-0"]), Request(2, experiences=["task-0"])], "Cannot forget experience task-0"),
        ([Request(1, experiences=["task-4"])], "Cannot forget experience task-4"),
        ([Request(1, samples=[10**6])], "Cannot forget sample 1000000"),
        ([Request(1)], "names nothing"),
        ([Request(1, classes=["seven"])], "There is no class 'seven'"),
        ([Request(1, experiences=[7])], "no experience number 7; choose 0 to 4"),
        ([Request("task-9", classes=[0])], "no experience 'task-9'. Did you mean 'task-"),
        ([Request(0, classes=[0])], "after 0 of 5 experiences; choose 1 to 5"),
        ([Request(6, classes=[0])], "after 6 of 5 experiences"),
        ([Request(1, samples="no/such/file")], "Cannot read sample ids from no/such/file"),
    ],
)
def test_an_impossible_request_is_refused_before_the_first_step(requests: list[Request], message: str):
    with pytest.raises(UserError, match=message):
        Mixed(digits(), requests).steps()


def test_a_file_of_ids_with_other_words_is_refused(tmp_path: Path):
    (tmp_path / "ids.txt").write_text("1\nb2\n")
    with pytest.raises(UserError, match="holds 'b2' among the sample ids"):
        Mixed(digits(), [Request(1, samples=str(tmp_path / "ids.txt"))]).steps()


def test_mixed_streams_do_not_nest():
    inner = Mixed(digits(), [Request(1, classes=[0])])
    with pytest.raises(UserError, match="one Mixed"):
        Mixed(inner, [Request(2, classes=[1])]).steps()


# --- configuration --------------------------------------------------------------------------------------------------


def test_a_configuration_describes_a_mixed_stream(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("""
scenario:
  class_path: scenarios.mixed.Mixed
  init_args:
    stream:
      class_path: scenarios.class_incremental.ClassIncremental
      init_args:
        increment: 5
        order_seed: null
        transform: {class_path: scenarios.pictures.transforms.Pilot, init_args: {size: 32}}
    requests:
      - {after: 1, classes: [1, "2"]}
      - {after: task-1, experiences: [0], samples: [700]}
""")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--scenario", type=Scenario)
    scenario = parser.instantiate(parser.parse_args(["--config", str(tmp_path / "config.yaml")])).scenario
    assert isinstance(scenario, Mixed)
    assert isinstance(scenario.stream.transform, Pilot)
    assert scenario.requests == [Request(1, classes=[1, "2"]), Request("task-1", experiences=[0], samples=[700])]


def test_a_request_can_be_given_on_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--scenario", type=Scenario)
    words = ["--scenario=scenarios.mixed.Mixed", "--scenario.stream=scenarios.class_incremental.ClassIncremental"]
    words += ["--scenario.stream.increment=5", '--scenario.requests=[{"after": 1, "classes": [3]}]']
    scenario = parser.instantiate(parser.parse_args(words)).scenario
    assert scenario.stream.increment == 5
    assert scenario.requests == [Request(1, classes=[3])]

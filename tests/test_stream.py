"""What arrives: samples read lazily and in order, experiences that shrink, forget requests resolved."""

import pytest
import torch

from cl_framework.errors import UserError
from cl_framework.streams.events import Step, exam_of, forget_request
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.streams.samples import Joined, Relabelled, Rows, Samples, Subset


def rows(start, n, key="s"):
    x = torch.arange(start, start + n)
    return Rows(x.float()[:, None], x % 3, x, key)


class Watched(Samples):
    """Samples that note what is read."""

    def __init__(self, inner):
        self.inner, self.reads = inner, []
        self.labels, self.ids, self.key = inner.labels, inner.ids, inner.key

    def __getitem__(self, rows):
        self.reads.append(list(rows))
        return self.inner[rows]


def test_a_subset_of_a_subset_reads_the_original_in_the_order_asked_for():
    inner = Subset(Subset(rows(0, 10), torch.tensor([8, 6, 4, 2])), torch.tensor([3, 0, 1]))
    assert isinstance(inner.whole, Rows)
    assert inner.ids.tolist() == [2, 8, 6]
    batch = inner[[2, 0, 2]]
    assert (batch.x[:, 0].tolist(), batch.y.tolist(), batch.ids.tolist()) == ([6.0, 2.0, 6.0], [0, 2, 0], [6, 2, 6])


def test_choosing_by_class_and_id_keeps_the_order_and_reads_nothing():
    watched = Watched(rows(0, 9))
    assert watched.of([2, 0]).ids.tolist() == [0, 2, 3, 5, 6, 8]
    assert watched.without(torch.tensor([4, 99])).ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert len(watched.of([])) == 0
    assert watched.reads == []


def test_joined_samples_are_read_part_by_part_once_and_come_back_in_the_order_asked_for():
    parts = [Watched(rows(0, 4)), Watched(rows(10, 1)), Watched(rows(20, 5))]
    joined = Joined(parts)
    assert len(joined) == 10
    batch = joined[[9, 0, 4, 5, 3, 0]]
    assert batch.ids.tolist() == [24, 0, 10, 20, 3, 0] == batch.x[:, 0].int().tolist()
    assert batch.y.tolist() == joined.labels[[9, 0, 4, 5, 3, 0]].tolist()
    assert [p.reads for p in parts] == [[[0, 3, 0]], [[0]], [[4, 0]]]


def test_joined_samples_keep_a_key_only_if_they_share_it():
    assert Joined([rows(0, 2), rows(5, 2)]).key == "s"
    assert Joined([rows(0, 2), rows(5, 2, "t")]).key is None
    assert Subset(rows(0, 2, None), torch.tensor([0])).key is None


def test_relabelled_samples_move_classes_and_ids_but_not_pictures():
    moved = Relabelled(rows(0, 5), classes=10, ids=100)
    batch = moved[[4, 1]]
    assert batch.x[:, 0].tolist() == [4.0, 1.0]
    assert (batch.y.tolist(), batch.ids.tolist()) == ([11, 11], [104, 101])
    assert moved.key != rows(0, 5).key, "the same id must not find another sample's features"


def test_inputs_are_read_only_when_looked_at_and_only_once():
    count = []
    x = Inputs(lambda: (count.append(1), torch.zeros(3, 2))[1], torch.arange(3), "s")
    assert (len(x), count) == (3, [])
    assert x.tensor is x.tensor
    assert count == [1]


def test_rows_are_made_up_unless_ids_are_given():
    assert Rows(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)).ids.tolist() == [-1, -2, -3]


def test_an_experience_loses_classes_and_samples_in_both_views_alike(stream):
    left = stream[0].without([5], torch.tensor([2001]))
    assert (left.name, left.classes) == ("task-0", (2,))
    assert left.data.ids.tolist() == left.reference.ids.tolist() == [2000, *range(2002, 2010)]
    assert stream[0].without([5, 2]) is None
    assert stream[0].without([5], stream[0].data.ids) is None
    assert stream[0].without([5], torch.arange(2000, 2010)) is None
    assert stream[0].without([], torch.arange(2000, 2010)).classes == (5,)


def test_a_class_takes_its_samples_with_it(stream):
    request = forget_request("f", stream[:3], classes=[0])
    assert (request.classes, request.experiences, request.single) == ((0,), ("task-1",), False)
    assert request.data.ids.tolist() == request.reference.ids.tolist() == list(range(10))
    assert [e.name for e in request.remaining] == ["task-0", "task-1", "task-2"]
    assert [e.classes for e in request.remaining] == [(5, 2), (7,), (1, 6)]


def test_the_two_views_of_what_goes_stay_apart(stream):
    request = forget_request("f", stream[:3], classes=[0])
    pick = list(range(10))
    torch.testing.assert_close(request.data[pick].x, 1.25 * request.reference[pick].x)
    assert (request.data.key, request.reference.key) == (None, "noise/train")


def test_an_experience_takes_its_classes_with_it(stream):
    request = forget_request("f", stream[:3], experiences=["task-1"])
    assert (request.classes, request.experiences) == ((0, 7), ("task-1",))
    assert [e.name for e in request.remaining] == ["task-0", "task-2"]


def test_samples_leave_their_classes_alive_until_the_last_one_goes(stream):
    some = forget_request("f", stream[:3], samples=[2001, 6000, 6001])
    assert (some.classes, some.experiences, some.single) == ((), ("task-0", "task-2"), True)
    assert some.data.ids.tolist() == [2001, 6000, 6001]
    last = forget_request("g", some.remaining, samples=range(6002, 6010))
    assert (last.classes, last.single) == ((6,), False)
    assert [e.classes for e in last.remaining] == [(5, 2), (7, 0), (1,)]


def test_several_kinds_at_once_are_one_request(stream):
    request = forget_request("f", stream[:3], classes=[5], experiences=["task-2"], samples=[0, 5001])
    assert (request.classes, request.experiences) == ((1, 5, 6), ("task-0", "task-1", "task-2"))
    assert len(request.data) == 10 + 1 + 20
    assert [len(e.data) for e in request.remaining] == [10, 19]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"classes": [4, 0]}, r"class 4: never learned, or already gone\. Alive now: 0, 1, 2, 5, 6, 7"),
        ({"experiences": ["task-9"]}, r"experience task-9.*Alive now: task-0, task-1, task-2"),
        ({"samples": [2000, 2010, 9999]}, r"sample 2010, 9999: never learned"),
        ({}, r"'f' names nothing"),
    ],
    ids=["class", "experience", "sample", "nothing"],
)
def test_a_request_for_what_is_not_there_is_refused(asked, told, stream):
    with pytest.raises(UserError, match=told):
        forget_request("f", stream[:3], **asked)


@pytest.mark.parametrize("again", [{"classes": [0]}, {"experiences": ["task-2"]}, {"samples": [6001]}], ids=str)
def test_what_is_gone_cannot_be_forgotten_twice(again, stream):
    first = forget_request("f", stream[:3], classes=[0], experiences=["task-2"])
    with pytest.raises(UserError, match="already gone"):
        forget_request("g", first.remaining, **again)


def test_nothing_can_be_forgotten_before_anything_is_learned():
    with pytest.raises(UserError, match="never learned"):
        forget_request("f", [], samples=[1])


def test_resolving_a_request_decodes_nothing(stream):
    watched = Watched(stream[0].data)
    event = type(stream[0])("task-0", (5, 2), watched, watched)
    request = forget_request("f", [event, stream[1]], classes=[5], samples=[2001])
    exam_of(request, [watched])
    Step(request, request.reference)
    assert watched.reads == []


def test_classes_are_examined_on_test_samples_and_samples_on_themselves(world, stream):
    exams = [world.noise(e.classes, 3, "test") for e in stream[:2]]
    assert exam_of(forget_request("f", stream[:2], classes=[2, 7]), exams).labels.tolist() == [2, 2, 2, 7, 7, 7]
    request = forget_request("f", stream[:2], samples=[2001])
    assert exam_of(request, exams) is request.reference

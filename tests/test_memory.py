"""The memory keeps samples by id, filed by experience and class, so that each can be forgotten."""

import pytest
import torch

from cl_framework.errors import UserError
from cl_framework.memory.erasure import Erasure, erase
from cl_framework.memory.exemplars import Memory
from cl_framework.memory.tensor_store import Key


def full(stream, per_class=None):
    memory = Memory(per_class)
    for event in stream[:2]:
        memory.keep(event)
    return memory


def test_an_unlimited_memory_returns_everything_in_order_of_arrival(stream):
    assert full(stream).all().ids.tolist() == [*stream[0].data.ids.tolist(), *stream[1].data.ids.tolist()]


def test_a_limited_memory_keeps_so_many_of_each_class_with_their_pictures(stream):
    torch.manual_seed(0)
    kept = full(stream, 3).all()
    assert kept.labels.bincount().tolist() == [3, 0, 3, 0, 0, 3, 0, 3]
    batch = kept[list(range(len(kept)))]
    for x, y, i in zip(*batch, strict=True):
        event = next(e for e in stream if int(y) in e.classes)
        row = event.data.ids.tolist().index(int(i))
        assert torch.equal(x, event.data.x[row])
        assert event.data.labels[row] == y


def test_ids_are_kept_in_ascending_order(stream):
    memory = Memory(5)
    memory.keep(stream[0])
    for entry in memory.ids:
        kept = memory.ids[entry].tolist()
        assert len(kept) == 5
        assert kept == sorted(kept)


def test_what_is_kept_is_drawn_with_torchs_dice(stream):
    def draw(seed):
        torch.manual_seed(seed)
        return full(stream, 3).all().ids.tolist()

    assert draw(0) == draw(0) != draw(1)


def test_an_empty_memory_is_false_and_holds_nothing(stream):
    assert not Memory()
    assert full(stream)
    assert len(full(stream).all()) == 40


def test_erasing_by_class_experience_and_sample(stream):
    memory = full(stream)
    erase(Erasure(classes=frozenset({5}), ids=frozenset({2001, 7003})), memory)
    ids = set(memory.all().ids.tolist())
    assert not {i for i in ids if i // 1000 == 5}
    assert not ids & {2001, 7003}
    assert len(ids) == 40 - 10 - 2
    erase(Erasure(experiences=frozenset({"task-0"})), memory)
    assert set(memory.all().labels.tolist()) == {0, 7}
    erase(Erasure(everything=True), memory)
    assert not memory


def test_a_class_whose_last_sample_goes_leaves_no_entry(stream):
    memory = full(stream)
    erase(Erasure(ids=frozenset(range(2000, 2010))), memory)
    assert Key(2, "task-0") not in memory.ids


def test_a_loaded_memory_needs_its_data_back(stream):
    one, two = full(stream, 4), Memory(4)
    two.load_state_dict(one.state_dict())
    with pytest.raises(UserError, match=r"task-0.*task-1.*data are not here"):
        two.all()
    two.attach(stream[:2])
    assert two.all().ids.tolist() == one.all().ids.tolist()

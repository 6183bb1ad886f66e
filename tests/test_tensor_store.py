"""The tensor store files tensors by class and experience, and lets go of them the same way."""

import weakref

import pytest
import torch
from torch import nn

from cl_framework.memory.erasure import Erasure, erase
from cl_framework.memory.tensor_store import Key, TensorStore

ENTRIES = [
    Key(3, "task-0"),
    Key(3, "task-1"),
    Key(4, "task-1"),
    Key(4),
    Key(experience="v1.5"),
    Key(name="shared"),
]


@pytest.fixture
def store():
    found = TensorStore()
    for i, entry in enumerate(ENTRIES):
        found[entry] = torch.full((i + 1,), float(i))
    return found


def erased(store, **what):
    store.erase(Erasure(**{k: v if v is True else frozenset(v) for k, v in what.items()}))
    return list(store)


def test_entries_are_found_again_oldest_first(store):
    assert list(store) == ENTRIES
    assert [store[e].tolist() for e in ENTRIES[:2]] == [[0.0], [1.0, 1.0]]
    assert Key(5) not in store
    assert "task-0" not in store


def test_a_missing_entry_is_named(store):
    with pytest.raises(KeyError, match=r"Nothing is filed under .*cls=5"):
        store[Key(5)]


def test_what_is_filed_is_a_detached_copy(store):
    value = torch.ones(2, requires_grad=True)
    store[Key(7)] = value
    with torch.no_grad():
        value += 1
    assert store[Key(7)].tolist() == [1.0, 1.0]
    assert not store[Key(7)].requires_grad


def test_a_class_is_erased_from_every_experience(store):
    assert erased(store, classes={3}) == ENTRIES[2:]


def test_an_experience_is_erased_with_all_its_classes(store):
    assert erased(store, experiences={"task-1"}) == [ENTRIES[0], *ENTRIES[3:]]
    assert erased(store, experiences={"v1.5"}) == [ENTRIES[0], ENTRIES[3], ENTRIES[5]]


def test_sample_ids_touch_nothing_and_everything_means_everything(store):
    assert erased(store, ids={3, 4}) == ENTRIES
    assert erased(store, everything=True) == []


def test_the_version_rises_with_every_change(store):
    versions = [store.version]
    store[Key(3, "task-0")] = torch.zeros(1)
    versions.append(store.version)
    del store[Key(3, "task-0")]
    versions.append(store.version)
    store.load_state_dict({})
    versions.append(store.version)
    store[ENTRIES[0]] = torch.zeros(1)
    versions.append(store.version)
    assert versions == sorted(set(versions))


def test_loading_replaces_what_was_there_and_keeps_order_types_and_shapes(store):
    store[Key(1, name="count")] = torch.tensor([2, 3])
    other = TensorStore()
    other[Key(99, "elsewhere")] = torch.zeros(3)
    other.load_state_dict(store.state_dict())
    assert list(other) == list(store)
    assert all(torch.equal(other[e], store[e]) and other[e].dtype == store[e].dtype for e in store)


def test_stores_inside_a_module_keep_apart(store):
    one, two = (
        nn.ModuleDict({"a": store, "ab": TensorStore()}),
        nn.ModuleDict({"a": TensorStore(), "ab": TensorStore()}),
    )
    two["ab"][Key(1)] = torch.zeros(1)
    two.load_state_dict(one.state_dict())
    assert (list(two["a"]), list(two["ab"])) == (ENTRIES, [])


def test_entries_move_with_their_module(store):
    assert nn.ModuleList([store]).double()[0][ENTRIES[0]].dtype == torch.float64


def test_erasing_reaches_stores_at_any_depth(store):
    holder = nn.Sequential(nn.Sequential(nn.Linear(1, 1), store))
    erase(Erasure(classes=frozenset({3, 4})), holder)
    assert list(store) == ENTRIES[4:]


def test_rows_of_classes_are_put_together_once_until_something_changes():
    store = TensorStore()
    for c in (3, 1):
        store[Key(c)] = torch.full((2,), float(c))
    first = store.stacked((3, 1))
    assert first.tolist() == [[3, 3], [1, 1]]
    assert store.stacked((3, 1)) is first
    store[Key(1)] = torch.zeros(2)
    held = weakref.ref(store.stacked((3, 1)))
    assert held().tolist() == [[3, 3], [0, 0]]
    del store[Key(3)]
    assert held() is None, "what was erased is held nowhere"
    assert store.stacked((1,)).dtype == torch.float32
    assert nn.ModuleList([store]).double()[0].stacked((1,)).dtype == torch.float64
    other = TensorStore()
    other[Key(1)] = torch.ones(2)
    assert other.stacked((1,)).tolist() == [[1, 1]]
    other.load_state_dict(store.state_dict())
    assert other.stacked((1,)).tolist() == [[0, 0]]

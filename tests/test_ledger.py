"""The ledger files tensors by class and experience, and lets go of them the same way."""

import pytest
import torch
from torch import nn

from cl_framework.memory.erasure import Erasure, erase
from cl_framework.memory.tensor_store import Entry, Ledger

ENTRIES = [
    Entry(3, "task-0"),
    Entry(3, "task-1"),
    Entry(4, "task-1"),
    Entry(4),
    Entry(experience="v1.5"),
    Entry(name="shared"),
]


@pytest.fixture
def ledger():
    found = Ledger()
    for i, entry in enumerate(ENTRIES):
        found[entry] = torch.full((i + 1,), float(i))
    return found


def erased(ledger, **what):
    ledger.erase(Erasure(**{k: v if v is True else frozenset(v) for k, v in what.items()}))
    return list(ledger)


def test_entries_are_found_again_oldest_first(ledger):
    assert list(ledger) == ENTRIES
    assert [ledger[e].tolist() for e in ENTRIES[:2]] == [[0.0], [1.0, 1.0]]
    assert Entry(5) not in ledger
    assert "task-0" not in ledger


def test_a_missing_entry_is_named(ledger):
    with pytest.raises(KeyError, match=r"Nothing is filed under .*cls=5"):
        ledger[Entry(5)]


def test_what_is_filed_is_a_detached_copy(ledger):
    value = torch.ones(2, requires_grad=True)
    ledger[Entry(7)] = value
    with torch.no_grad():
        value += 1
    assert ledger[Entry(7)].tolist() == [1.0, 1.0]
    assert not ledger[Entry(7)].requires_grad


def test_a_class_is_erased_from_every_experience(ledger):
    assert erased(ledger, classes={3}) == ENTRIES[2:]


def test_an_experience_is_erased_with_all_its_classes(ledger):
    assert erased(ledger, experiences={"task-1"}) == [ENTRIES[0], *ENTRIES[3:]]
    assert erased(ledger, experiences={"v1.5"}) == [ENTRIES[0], ENTRIES[3], ENTRIES[5]]


def test_sample_ids_touch_nothing_and_everything_means_everything(ledger):
    assert erased(ledger, ids={3, 4}) == ENTRIES
    assert erased(ledger, everything=True) == []


def test_the_version_rises_with_every_change(ledger):
    versions = [ledger.version]
    ledger[Entry(3, "task-0")] = torch.zeros(1)
    versions.append(ledger.version)
    del ledger[Entry(3, "task-0")]
    versions.append(ledger.version)
    ledger.load_state_dict({})
    versions.append(ledger.version)
    ledger[ENTRIES[0]] = torch.zeros(1)
    versions.append(ledger.version)
    assert versions == sorted(set(versions))


def test_loading_replaces_what_was_there_and_keeps_order_types_and_shapes(ledger):
    ledger[Entry(1, name="count")] = torch.tensor([2, 3])
    other = Ledger()
    other[Entry(99, "elsewhere")] = torch.zeros(3)
    other.load_state_dict(ledger.state_dict())
    assert list(other) == list(ledger)
    assert all(torch.equal(other[e], ledger[e]) and other[e].dtype == ledger[e].dtype for e in ledger)


def test_ledgers_inside_a_module_keep_apart(ledger):
    one, two = nn.ModuleDict({"a": ledger, "ab": Ledger()}), nn.ModuleDict({"a": Ledger(), "ab": Ledger()})
    two["ab"][Entry(1)] = torch.zeros(1)
    two.load_state_dict(one.state_dict())
    assert (list(two["a"]), list(two["ab"])) == (ENTRIES, [])


def test_entries_move_with_their_module(ledger):
    assert nn.ModuleList([ledger]).double()[0][ENTRIES[0]].dtype == torch.float64


def test_erasing_reaches_ledgers_at_any_depth(ledger):
    holder = nn.Sequential(nn.Sequential(nn.Linear(1, 1), ledger))
    erase(Erasure(classes=frozenset({3, 4})), holder)
    assert list(ledger) == ENTRIES[4:]


def test_rows_of_classes_are_put_together_once_until_something_changes():
    ledger = Ledger()
    for c in (3, 1):
        ledger[Entry(c)] = torch.full((2,), float(c))
    first = ledger.stacked((3, 1))
    assert first.tolist() == [[3, 3], [1, 1]]
    assert ledger.stacked((3, 1)) is first
    ledger[Entry(1)] = torch.zeros(2)
    assert ledger.stacked((3, 1)).tolist() == [[3, 3], [0, 0]]
    del ledger[Entry(3)]
    assert not ledger._stacked  # what was erased is held nowhere
    assert ledger.stacked((1,)).dtype == torch.float32
    assert nn.ModuleList([ledger]).double()[0].stacked((1,)).dtype == torch.float64
    other = Ledger()
    other[Entry(1)] = torch.ones(2)
    assert other.stacked((1,)).tolist() == [[1, 1]]
    other.load_state_dict(ledger.state_dict())
    assert other.stacked((1,)).tolist() == [[0, 0]]

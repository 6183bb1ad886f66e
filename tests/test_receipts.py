"""Receipts are a chain: no byte of it can change unnoticed, and none of it tells who was forgotten."""

import stat

import pytest

from cl_framework import receipts
from cl_framework.errors import UserError


@pytest.fixture
def chain(tmp_path):
    for i in range(3):
        receipts.append(tmp_path, {"event": f"00{i}-forget", "request": f"request {i}"})
    return tmp_path


def test_receipts_come_back_in_order(chain):
    assert [r["request"] for r in receipts.read(chain)] == ["request 0", "request 1", "request 2"]
    assert receipts.check(chain) == []


def test_no_receipts_is_no_problem(tmp_path):
    assert (receipts.read(tmp_path), receipts.check(tmp_path)) == ([], [])


def test_flipping_any_byte_of_any_line_is_found_and_the_line_is_named(chain):
    file = chain / receipts.FILE
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        line = data[:place].count(b"\n") + 1
        assert any(f"line {line} " in problem for problem in receipts.check(chain)), place


@pytest.mark.parametrize("order", [(0, 2), (1, 2), (1, 0, 2), (0, 0, 1, 2)])
def test_removing_swapping_or_repeating_a_line_is_found(chain, order):
    file = chain / receipts.FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[i] for i in order))
    assert "does not follow" in receipts.check(chain)[0]


def test_a_line_cut_short_is_found(chain):
    file = chain / receipts.FILE
    for cut in (1, 20):
        file.write_bytes(file.read_bytes()[:-cut])
        assert "line 3 is cut short" in receipts.check(chain)[-1]


def test_nothing_is_added_to_a_broken_chain(chain):
    file = chain / receipts.FILE
    file.write_bytes(file.read_bytes().replace(b"request 1", b"request 9"))
    with pytest.raises(UserError, match="line 2"):
        receipts.append(chain, {"event": "003-forget"})


def test_a_draft_says_what_was_done_without_naming_classes_or_samples(tmp_path):
    found = receipts.draft(
        tmp_path, request="forget-0", classes=[31337], samples=[4711, 4712], method="DropAdapter", exact=True,
        before={"forget": 0.9, "retain": 0.95}, after={"forget": 0.0, "retain": 0.95},
    )  # fmt: skip
    assert (found["classes"]["count"], found["samples"]["count"], found["policy"]) == (1, 2, "exact")
    assert found["accuracy"]["after"] == {"forget": 0.0, "retain": 0.95}
    assert "no legal proof" in found["statement"]
    receipts.append(tmp_path, {"event": "000", **found})
    assert not any(i in (tmp_path / receipts.FILE).read_text() for i in ("31337", "4711", "4712"))


def test_who_holds_the_key_can_ask_whether_a_sample_was_covered(tmp_path):
    key = receipts.run_key(tmp_path)
    assert receipts.run_key(tmp_path) == key
    assert set(receipts.keyed(key, "sample", [8])) <= set(receipts.keyed(key, "sample", range(10)))
    assert receipts.keyed(key, "sample", [8]) != receipts.keyed(key, "class", [8])
    assert receipts.keyed(b"another", "sample", [8]) != receipts.keyed(key, "sample", [8])


def test_the_key_is_random_and_for_its_owner_alone(tmp_path):
    (tmp_path / "other").mkdir()
    assert receipts.run_key(tmp_path) != receipts.run_key(tmp_path / "other")
    assert stat.S_IMODE((tmp_path / receipts.KEY).stat().st_mode) == 0o600


def test_a_damaged_key_is_named(tmp_path):
    (tmp_path / receipts.KEY).write_text("not a key")
    with pytest.raises(UserError, match="key is damaged"):
        receipts.run_key(tmp_path)

"""Receipts are a chain: no byte of it can change unnoticed, and none of it tells who was forgotten."""

import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from cl_framework.errors import UserError
from cl_framework.runs import receipts, signatures


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


@pytest.fixture
def keyed(tmp_path):
    """A directory with a key."""
    receipts.write_key(tmp_path, receipts.new_key())
    return tmp_path


def test_a_draft_says_what_was_done_without_naming_classes_or_samples(keyed):
    tmp_path = keyed
    found = receipts.draft(
        tmp_path, request="forget-0", classes=[313373133731337], samples=[471147114711, 471247124712], exact=True,
        method="DropAdapter", before={"forget": 0.9, "retain": 0.95}, after={"forget": 0.0, "retain": 0.95},
        requester="Zoe Unique",
    )  # fmt: skip
    assert (found["classes"]["count"], found["samples"]["count"], found["policy"]) == (1, 2, "exact")
    assert found["accuracy"]["after"] == {"forget": 0.0, "retain": 0.95}
    assert "no legal proof" in found["statement"]
    receipts.append(tmp_path, {"event": "000", **found})
    assert not any(
        i in (tmp_path / receipts.FILE).read_text() for i in ("313373133731337", "471147114711", "471247124712", "Zoe")
    )


def test_who_holds_the_key_can_ask_whether_a_sample_was_covered(keyed):
    key = receipts.run_key(keyed)
    receipts.append(keyed, receipts.draft(keyed, "forget-0", [3], [70, 71], "Retrain", True, {}, {}, ["task-0"]))
    receipts.append(keyed, receipts.draft(keyed, "forget-1", [5], [80], "Retrain", True, {}, {}, ["task-0"]))
    assert receipts.covering(keyed, "sample", [70, 80, 90]) == {70: 1, 80: 2}
    assert receipts.covering(keyed, "class", [3, 4]) == {3: 1}
    assert receipts.covering(keyed, "experience", ["task-0", "task-1"]) == {"task-0": 2}
    assert set(receipts.keyed(key, "sample", [8])) <= set(receipts.keyed(key, "sample", range(10)))
    assert receipts.keyed(key, "sample", [8]) != receipts.keyed(key, "class", [8])
    assert receipts.keyed(b"another", "sample", [8]) != receipts.keyed(key, "sample", [8])


def test_the_key_is_random_and_for_its_owner_alone(keyed):
    assert receipts.new_key() != receipts.new_key()
    assert stat.S_IMODE((keyed / receipts.KEY).stat().st_mode) == 0o600


def test_every_flipped_byte_of_the_key_shows_and_a_deleted_key_is_no_damage(keyed):
    file, mark = keyed / receipts.KEY, receipts.key_mark(receipts.run_key(keyed))
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert receipts.broken_key(keyed, mark), place
    file.unlink()
    assert receipts.broken_key(keyed, mark) is None
    with pytest.raises(UserError, match="key is missing"):
        receipts.run_key(keyed)


def test_a_damaged_key_is_named(tmp_path):
    (tmp_path / receipts.KEY).write_text("not a key")
    with pytest.raises(UserError, match="key is damaged"):
        receipts.run_key(tmp_path)


def pem(folder, name="key"):
    """Make a pair of Ed25519 keys; return the two files."""
    key = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.pub"


def add(run, request, sign=None):
    """Append a receipt as the run does, signed or not."""
    entry = {"event": request, "request": request}
    if sign:
        entry["signature"] = sign(receipts.body(entry, receipts.last(run)))
    receipts.append(run, entry)


def test_a_signature_vouches_for_its_line_and_for_all_before_it(tmp_path):
    private, public = pem(tmp_path)
    sign = signatures.signer(private)
    add(tmp_path, "a")
    assert "line 1 and what follows is not signed" in signatures.problems(tmp_path, public)[0]
    add(tmp_path, "b", sign)
    assert signatures.problems(tmp_path, public) == []
    add(tmp_path, "c")
    assert "line 3 and what follows" in signatures.problems(tmp_path, public)[0]
    _, other = pem(tmp_path, "other")
    assert "line 2 was not signed with the key" in signatures.problems(tmp_path, other)[0]


def test_a_chain_forged_from_the_first_line_on_fails_by_its_signature(tmp_path):
    private, public = pem(tmp_path)
    add(tmp_path, "a")
    add(tmp_path, "b", signatures.signer(private))
    told = receipts.read(tmp_path)
    (tmp_path / receipts.FILE).unlink()
    receipts.append(tmp_path, {**told[0], "request": "another"})
    receipts.append(tmp_path, told[1])
    assert receipts.check(tmp_path) == []  # the hashes alone were made again
    assert "line 2 was not signed" in signatures.problems(tmp_path, public)[0]


def test_what_is_no_key_is_refused_with_a_way_to_make_one(tmp_path):
    private, public = pem(tmp_path)
    with pytest.raises(UserError, match="openssl genpkey"):
        signatures.signer(public)
    with pytest.raises(UserError, match="pubout"):
        signatures.problems(tmp_path, private)
    with pytest.raises(UserError, match="cannot be read"):
        signatures.signer(tmp_path / "nowhere.pem")

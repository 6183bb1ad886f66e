"""Receipts are a chain: no byte of it can change unnoticed, and none of it tells who was forgotten."""

import base64
import json
import re
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.dsse import Envelope as DSSE
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from cl_framework.errors import UserError
from cl_framework.runs import receipts, signatures
from cl_framework.storage import envelopes
from cl_framework.storage.files import broken_seal, seal


@pytest.fixture
def chain(tmp_path):
    for i in range(3):
        receipts.append(tmp_path, {"event": f"00{i}-forget", "request": f"request {i}"})
    return tmp_path


@pytest.fixture(params=["envelopes", "plain lines", "both"])
def kinds(request, tmp_path):
    """Chains of envelopes, of plain lines as earlier versions wrote them, and of one after the other."""
    forms = {"envelopes": [(), ()], "plain lines": [None, None], "both": [None, ()]}
    for i, form in enumerate(forms[request.param]):
        receipts.append(tmp_path, {"event": f"00{i}-forget", "request": f"request {i}"}, form)
    return tmp_path


def test_receipts_come_back_in_order(chain):
    assert [r["request"] for r in receipts.read_receipts(chain)] == ["request 0", "request 1", "request 2"]
    assert receipts.check_chain(chain) == []


def test_no_receipts_is_no_problem(tmp_path):
    assert (receipts.read_receipts(tmp_path), receipts.check_chain(tmp_path)) == ([], [])


def test_flipping_any_byte_of_any_line_is_found_and_the_line_is_named(kinds):
    file = kinds / receipts.FILE
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        line = data[:place].count(b"\n") + 1
        assert any(f"line {line} " in problem for problem in receipts.check_chain(kinds)), place


@pytest.mark.parametrize("order", [(0, 2), (1, 2), (1, 0, 2), (0, 0, 1, 2)])
def test_removing_swapping_or_repeating_a_line_is_found(chain, order):
    file = chain / receipts.FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[i] for i in order))
    assert "does not follow" in receipts.check_chain(chain)[0]


def test_a_line_cut_short_is_found(chain):
    file = chain / receipts.FILE
    for cut in (1, 20):
        file.write_bytes(file.read_bytes()[:-cut])
        assert "line 3 is cut short" in receipts.check_chain(chain)[-1]


def test_nothing_is_added_to_a_broken_chain(chain):
    file = chain / receipts.FILE
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, others[0].replace(b"receipt+json", b"receipt+JSON"), *others[1:]]))
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
    payload = base64.b64decode(json.loads((tmp_path / receipts.FILE).read_text())["payload"]).decode()
    assert "forget-0" in payload
    assert not any(i in payload for i in ("313373133731337", "471147114711", "471247124712", "Zoe"))


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
    signatures = [sign(receipts.to_sign(entry, receipts.last(run)))] if sign else []
    receipts.append(run, entry, signatures)


def test_a_signature_vouches_for_its_line_and_for_all_before_it(tmp_path):
    private, public = pem(tmp_path)
    sign = signatures.signer(private)
    add(tmp_path, "a")
    assert "line 1 and what follows is not signed" in signatures.signature_problems(tmp_path, public)[0]
    add(tmp_path, "b", sign)
    assert signatures.signature_problems(tmp_path, public) == []
    add(tmp_path, "c")
    assert "line 3 and what follows" in signatures.signature_problems(tmp_path, public)[0]
    _, other = pem(tmp_path, "other")
    assert "line 2 was not signed with the key" in signatures.signature_problems(tmp_path, other)[0]


def test_a_chain_forged_from_the_first_line_on_fails_by_its_signature(tmp_path):
    private, public = pem(tmp_path)
    add(tmp_path, "a")
    add(tmp_path, "b", signatures.signer(private))
    lines = receipts.whole(tmp_path)
    (tmp_path / receipts.FILE).unlink()
    receipts.append(tmp_path, {**lines[0].content, "request": "another"})
    receipts.append(tmp_path, lines[1].content, lines[1].signatures)
    assert receipts.check_chain(tmp_path) == []  # the hashes alone were made again
    assert "line 2 was not signed" in signatures.signature_problems(tmp_path, public)[0]


def test_what_is_no_key_is_refused_with_a_way_to_make_one(tmp_path):
    private, public = pem(tmp_path)
    with pytest.raises(UserError, match="openssl genpkey"):
        signatures.signer(public)
    with pytest.raises(UserError, match="pubout"):
        signatures.signature_problems(tmp_path, private)
    with pytest.raises(UserError, match="cannot be read"):
        signatures.signer(tmp_path / "nowhere.pem")


def signed_line(folder):
    """Make a signed receipt; return its envelope and the public key."""
    private, public = pem(folder)
    add(folder, "a", signatures.signer(private))
    envelope = json.loads((folder / receipts.FILE).read_text())
    return envelope, serialization.load_pem_public_key(public.read_bytes())


def test_an_envelope_verifies_by_the_standard_written_out(tmp_path):
    envelope, public = signed_line(tmp_path)
    body, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    (signature,) = envelope["signatures"]
    signed = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(body)).encode() + b" " + body
    public.verify(base64.b64decode(signature["sig"]), signed)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature["sig"]), signed + b" ")
    assert json.loads(body) == {"event": "a", "previous": receipts.FIRST, "request": "a"}
    assert body == b'{"event":"a","previous":"' + receipts.FIRST.encode() + b'","request":"a"}'


def test_another_implementation_verifies_an_envelope_and_refuses_an_edited_one(tmp_path):
    envelope, public = signed_line(tmp_path)
    key = SSlibKey.from_crypto(public, keyid=envelope["signatures"][0]["keyid"])
    DSSE.from_dict(json.loads(json.dumps(envelope))).verify([key], 1)
    envelope["payload"] = base64.b64encode(b"{}").decode()
    with pytest.raises(VerificationError):
        DSSE.from_dict(envelope).verify([key], 1)


def test_an_envelope_of_another_implementation_is_taken(tmp_path):
    """One that signs our payload, with URL-safe base64 and a field of its own, as the standard allows."""
    private, public = pem(tmp_path)
    signer = CryptoSigner(serialization.load_pem_private_key(private.read_bytes(), None))
    made = DSSE(envelopes.canonical({"event": "a", "previous": receipts.FIRST}), receipts.TYPE, {})
    made.sign(signer)
    told = made.to_dict()
    told["signatures"][0]["sig"] = told["signatures"][0]["sig"].translate(str.maketrans("+/", "-_"))
    (tmp_path / receipts.FILE).write_bytes(seal({**told, "note": "theirs"}, None))
    assert (receipts.check_chain(tmp_path), signatures.signature_problems(tmp_path, public)) == ([], [])


def test_the_ten_lines_of_the_docs_verify_signatures(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "receipts.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    private, public = pem(tmp_path)
    for name in ("a", "b"):
        add(tmp_path, name, signatures.signer(private))
    monkeypatch.chdir(tmp_path)
    public.rename("key.pub")
    exec(compile(code, "docs/receipts.md", "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == ["receipt of a: signature holds", "receipt of b: signature holds"]
    raw = (tmp_path / receipts.FILE).read_text().splitlines(keepends=True)
    (tmp_path / receipts.FILE).write_text(raw[1])
    with pytest.raises(AssertionError):
        exec(compile(code, "docs/receipts.md", "exec"), {})


def reseal(run, change):
    """Change the first line and make its own hash again, as somebody would who knows how."""
    line = json.loads((run / receipts.FILE).read_text().splitlines()[0])
    del line["sha256"]
    change(line)
    (run / receipts.FILE).write_bytes(raw := seal(line, None))
    assert broken_seal(raw, None) is None


def payload(content):
    return {"payload": base64.b64encode(content).decode()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line.update(payloadType="text/plain"), "at payloadType"),
        (lambda line: line.update(payload="?"), "at payload: it is not base64"),
        (lambda line: line.update(payload=3), "at payload: expected `str`"),
        (lambda line: line.pop("signatures"), "required field `signatures`"),
        (lambda line: line.update(signatures=[{"keyid": "a"}]), "required field `sig`"),
        (lambda line: line.update(payload(b"[]")), "at payload: it is no JSON object"),
        (lambda line: line.update(payload(b'{"a": 1}')), "at payload: it is no JSON object in canonical form"),
        (lambda line: line.update(payload(b'{"a":1,"a":1}')), "at payload: it is no JSON object in canonical form"),
        (lambda line: line.update(payload(b'{"a":9007199254740993}')), "exceeds safe integer"),
        (lambda line: line.update(payload(b"[" * 9999)), "at payload"),
        (lambda line: line.update(payload(b"\xff")), "at payload"),
        (lambda line: line.update(payload(b'{"event":3}')), "line 1 is damaged at event"),
        (lambda line: line.update(payload(b'{"event":"a"}')), "does not follow the line before"),
    ],
)  # fmt: skip
def test_an_envelope_that_somebody_edited_and_sealed_again_is_refused_in_a_sentence(chain, change, said):
    reseal(chain, change)
    assert said in receipts.check_chain(chain)[0]
    with pytest.raises(UserError, match=r"line 1 .*; restore the file from a copy\."):
        receipts.read_receipts(chain)


@pytest.mark.parametrize("value", [float("nan"), 2**53, "\ud800"])
def test_what_canonical_json_cannot_hold_is_refused(chain, value):
    with pytest.raises(UserError, match="A receipt cannot hold this value"):
        receipts.append(chain, {"settings": {"values": {"rate": value}, "sha256": ""}})
    assert receipts.check_chain(chain) == []

"""A run made before modules moved into packages goes on working: its config names classes where they were."""

import base64
import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from cl_framework.cli.main import main
from cl_framework.configuration import shorthand
from cl_framework.runs import receipts, signatures
from cl_framework.storage.files import seal, sha256

KEPT = Path(__file__).parent / "kept_run"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(KEPT, tmp_path / "run")


def test_it_names_a_class_that_has_moved_since():
    assert "class_path: scenarios.transform.Pilot" in (KEPT / "config.yaml").read_text()


def test_it_verifies_resumes_learns_forgets_and_answers(run, tmp_path, capsys):
    assert main(["verify", str(run)]) == 0
    assert main(["resume", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert "agrees with the recorded results" in capsys.readouterr().out
    assert main(["forget", str(run), "--classes", "id:1"]) == 0
    more = ["--data.scenario", "ClassIncremental", "--data.scenario.dataset", "digits:test=0.9"]
    assert main(["learn", str(run), *more]) == 0
    assert main(["verify", str(run)]) == 0
    assert "8 events, 1 receipt" in capsys.readouterr().out.replace("\n", " ")


def test_old_places_of_classes_are_read_wherever_a_config_names_them():
    read = shorthand.read_config(
        "data: {scenario: {class_path: Mixed, init_args: {transform: {class_path: scenarios.transform.Plain}}}}"
    )
    assert read["data"]["scenario"]["init_args"]["transform"]["class_path"] == "scenarios.pictures.transforms.Plain"
    assert shorthand.read_config("published: {class_path: cl_framework.published.Published}")["published"][
        "class_path"
    ] == ("cl_framework.evaluation.published.Published")


PEM = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
RECEIPTS = KEPT.with_name("kept_receipts")
PUBLIC = KEPT.with_name("kept_receipts.pub")
"""A run that forgot twice before receipts were envelopes, the first time signed with the key's other half."""


@pytest.fixture
def forgetful(tmp_path):
    return shutil.copytree(RECEIPTS, tmp_path / "run")


def test_plain_receipts_of_earlier_versions_are_read_and_verified(forgetful, capsys):
    assert main(["verify", str(forgetful), "--last", receipts.last(forgetful)]) == 0
    assert "2 receipts, all hashes match" in capsys.readouterr().out.replace("\n", " ")
    assert main(["forget", str(forgetful), "--classes", "id:1"]) == 0
    assert "receipts.jsonl line 1" in capsys.readouterr().out
    assert signatures.signature_problems(forgetful, PUBLIC) == [
        f"{forgetful / receipts.FILE} line 2 and what follows is not signed; `clf forget DIR --sign` signs."
    ]
    (line := forgetful / receipts.FILE).write_bytes(line.read_bytes().replace(b"exact", b"EXACT", 1))
    assert main(["verify", str(forgetful)]) == 1


def test_a_plain_receipt_edited_and_sealed_again_fails_by_its_signature(forgetful):
    first, second = map(json.loads, (forgetful / receipts.FILE).read_text().splitlines())
    first["seconds"] += 1
    del first["sha256"], second["sha256"]
    raw = seal(first, None)
    (forgetful / receipts.FILE).write_bytes(raw + seal({**second, "previous": sha256(raw)}, None))
    assert receipts.check_chain(forgetful) == []
    assert "line 1 was not signed" in signatures.signature_problems(forgetful, PUBLIC)[0]


def test_the_next_receipt_is_an_envelope_that_follows_the_plain_ones(forgetful, tmp_path):
    before = (forgetful / receipts.FILE).read_bytes()
    private = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(private.private_bytes(*PEM, serialization.NoEncryption()))
    assert main(["forget", str(forgetful), "--classes", "id:2", "--sign", str(tmp_path / "key.pem")]) == 0
    after = (forgetful / receipts.FILE).read_bytes()
    assert after.startswith(before)
    envelope = json.loads(after[len(before) :])
    assert envelope["payloadType"] == receipts.TYPE
    assert json.loads(base64.b64decode(envelope["payload"]))["previous"] == sha256(before.splitlines(True)[-1])
    assert main(["verify", str(forgetful)]) == 0


def test_plain_lines_that_a_kill_kept_from_being_written_are_written_with_the_bytes_they_had(forgetful):
    before = (forgetful / receipts.FILE).read_bytes()
    for left in (None, before.splitlines(True)[0]):
        (forgetful / receipts.FILE).unlink()
        if left:
            (forgetful / receipts.FILE).write_bytes(left)
        assert main(["resume", str(forgetful)]) == 0
        assert (forgetful / receipts.FILE).read_bytes() == before


def test_an_old_place_is_read_as_a_word_too(capsys):
    assert shorthand.read_config("scenarios.transform.Plain") == "scenarios.pictures.transforms.Plain"
    asked = ["plan", "quickstart", "--data.scenario.stream.transform", "scenarios.transform.Plain"]
    assert main(asked) == 0, capsys.readouterr().err


def test_a_config_that_contains_itself_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "loop.yaml").write_text("model: &a {x: *a}\n")
    assert main(["plan", "--config", str(tmp_path / "loop.yaml")]) == 2
    assert "contains itself by a YAML alias" in capsys.readouterr().err

"""A signed receipt binds tensors, facts, features and origin: whatever is put back and sealed again is found."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from cl_framework.backbones.glyph import GlyphViT
from cl_framework.cli import main
from cl_framework.runs import receipts, signatures
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.records import history_hash, overlay, state_hash
from cl_framework.settings import source_hash
from cl_framework.storage import tensors as storage_tensors
from cl_framework.storage.files import entry, seal
from strategies.learning.ease import EASE
from strategies.unlearning.drop_adapter import DropAdapter

FORGET = "002-forget-forget-0"


def features(*ids):
    rows = torch.tensor(ids, dtype=torch.float32)[:, None] * torch.ones(3)
    return {"bare/k/ids": torch.tensor(ids), "bare/k/rows": rows}


@pytest.fixture
def signed(tmp_path):
    """A run that learned twice, forgot, with a signature, and learned again; its public key; a copy from before."""
    key = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    run = RunDirectory.create(tmp_path / "run", "seed: 0\n", {"seed": 0})
    run.commit("a", "learn", {"own": torch.ones(4), "head": torch.eye(2)}, {"known": [1]}, {"right": 1}, features(0, 1))
    run.commit("b", "learn", {"own": torch.ones(4), "head": torch.eye(3)}, {"known": [1, 2]}, {}, features(0, 1, 2))
    shutil.copytree(run.path, tmp_path / "before")
    sign = signatures.signer(tmp_path / "key.pem")
    left = {"head": torch.eye(3)[1:]}
    run.commit("forget-0", "forget", left, {"known": [2]}, {"right": 2}, features(2), {"request": "forget-0"}, sign)
    run.commit("c", "learn", {**left, "more": torch.ones(2)}, {"known": [2, 3]}, {}, features(2, 3))
    assert run.verify() == signatures.signature_problems(run.path, tmp_path / "key.pub") == []
    return run.path, tmp_path / "key.pub", tmp_path / "before"


def edit(run, folder, change):
    """Change an event's record and seal it again."""
    place = run / "events" / folder / "state.json"
    record = json.loads(place.read_text())
    del record["sha256"]
    change(record)
    place.write_bytes(seal(record))


def put(run, folder, place, data, fingerprints=None):
    """Put another file into an event, with its hash and, for tensors, their fingerprints."""
    (run / place).write_bytes(data)
    edit(run, folder, lambda r: r["files"].update({place: {"sha256": entry(data).sha256, "bytes": len(data)}}))
    if fingerprints is not None:
        edit(run, folder, lambda r: r.update(tensors=fingerprints))


def put_tensors(run, folder, tensors):
    marks = {n: storage_tensors.fingerprint(t) for n, t in tensors.items()}
    put(run, folder, f"events/{folder}/state.safetensors", storage_tensors.pack(tensors), marks)


def old_model(run, before):
    """The model from before, its hash in the record: what the issue found to pass."""
    put(run, FORGET, f"events/{FORGET}/state.safetensors", storage_tensors.pack(RunDirectory.open(before).state()))


def old_model_with_fingerprints(run, before):
    put_tensors(run, FORGET, RunDirectory.open(before).state())


def one_tensor_of_an_early_event(run, before):
    put_tensors(run, "001-learn-b", {"head": torch.eye(3) + 1})


def a_dead_tensor(run, before):
    """What the request took out of an earlier event, in that event again."""
    put_tensors(run, "000-learn-a", {"own": torch.ones(4)})


def hidden_bytes(run, before):
    """The old tensors behind those that the header speaks of."""
    place = f"events/{FORGET}/state.safetensors"
    put(run, FORGET, place, (run / place).read_bytes() + torch.ones(4).numpy().tobytes())


def a_name_twice(run, before):
    place = f"events/{FORGET}/state.safetensors"
    data = (run / place).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].rstrip()[:-1] + b',"head":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    header += b" " * (-len(header) % 8)
    put(run, FORGET, place, len(header).to_bytes(8, "little") + header + data[8 + size :])


def old_facts(run, before):
    edit(run, FORGET, lambda r: r["state"].update(known=[1, 2]))


def old_features(run, before):
    put(run, FORGET, f"features/{FORGET}.safetensors", storage_tensors.pack(features(0, 1, 2)))


def other_measurements(run, before):
    place = f"events/{FORGET}/metrics.json"
    put(run, FORGET, place, b'{"right": 1}\n')


def another_config(run, before):
    (run / "config.yaml").write_text("seed: 1\n")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["config"] = {"sha256": entry(b"seed: 1\n").sha256, "bytes": 8}
    (run / "manifest.json").write_bytes(seal(manifest))
    mark = json.loads((run / "manifest.json").read_text())["sha256"]
    for folder in os.listdir(run / "events"):
        edit(run, folder, lambda r: r.update(run=mark))


def rewrite_receipts(run):
    """Make the receipt speak of what is there now; only the signature cannot be made."""
    events = RunDirectory.open(run).events()
    told = dict(events[2].receipt)
    told["state"] = {**told["state"], "after": state_hash(overlay(events[:3]))}
    told["history"] = history_hash(events[:3])
    edit(run, FORGET, lambda r: r.update(receipt=told))
    (run / receipts.FILE).unlink()
    receipts.append(run, {"event": FORGET, **told}, events[2].signatures)


ATTACKS = (
    old_model, old_model_with_fingerprints, one_tensor_of_an_early_event, a_dead_tensor, hidden_bytes, a_name_twice,
    old_facts, old_features, other_measurements, another_config,
)  # fmt: skip


UNSIGNED = (old_model, one_tensor_of_an_early_event, a_dead_tensor, hidden_bytes, a_name_twice)
"""Those that show whatever receipts say."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_put_back_and_sealed_again_is_found(attack, signed, capsys):
    run, public, before = signed
    attack(run, before)
    assert main.main(["verify", str(run), "--public", str(public)]) == 1
    capsys.readouterr()
    rewrite_receipts(run)
    assert main.main(["verify", str(run), "--public", str(public)]) == 1
    assert ("was not signed" in capsys.readouterr().out) or attack in UNSIGNED


def test_verify_says_how_far_signatures_reach(signed, capsys):
    run, public, before = signed
    assert main.main(["verify", str(run), "--public", str(public)]) == 0
    assert f"signatures valid up to {FORGET}; 1 later event unsigned" in capsys.readouterr().out
    assert main.main(["verify", str(before), "--public", str(public)]) == 0
    assert "nothing is signed" in capsys.readouterr().out


def test_an_older_whole_copy_is_refused_by_the_hash_of_the_last_receipt(signed, capsys):
    run, _, before = signed
    kept = receipts.last(run)
    assert main.main(["verify", str(run), "--last", kept]) == 0
    assert main.main(["verify", str(before)]) == 0
    assert main.main(["verify", str(before), "--last", kept]) == 1
    assert f"no line with the hash {kept}: this is an older copy" in capsys.readouterr().out
    assert main.main(["verify", str(run), "--last", kept[:12]]) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


KINDS = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64"


@pytest.mark.parametrize("kind", KINDS.split())
def test_fingerprints_from_bytes_are_those_of_tensors(kind):
    dtype = getattr(torch, kind)
    shapes = {"some": (3, 2), "none": (0, 5), "one": ()}
    tensors = {name: torch.ones(shape).to(dtype) for name, shape in shapes.items()}
    assert storage_tensors.fingerprints(storage_tensors.pack(tensors)) == {
        n: storage_tensors.fingerprint(t) for n, t in tensors.items()
    }


def test_verify_reads_tensors_without_torch(signed):
    code = f"import sys; from cl_framework.cli.main import main; main(['verify', {str(signed[0])!r}])"
    code += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all hashes match" in done.stdout


def test_the_hash_of_the_code_does_not_depend_on_the_order_in_which_files_are_found():
    """Six runs gave six values: files of one name, such as `__init__.py`, came in any order."""
    files = source_hash.sources_of([EASE, DropAdapter, GlyphViT])
    assert sum(place.endswith("__init__.py") for place in files) > 1
    assert {"cl_framework/engine/loop.py", "strategies/learning/ease.py"} <= files.keys()
    assert source_hash.source_digest(files) == source_hash.source_digest(dict(reversed(files.items())))


def test_the_hash_of_the_code_is_the_same_wherever_it_is_installed(tmp_path):
    found = []
    for place in ("one", "two/deeper"):
        for name in ("__init__.py", "part/__init__.py"):
            file = tmp_path / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"# {name}")
        root = tmp_path / place
        found.append(source_hash.source_digest({p.relative_to(root).as_posix(): p for p in root.rglob("*.py")}))
    assert found[0] == found[1]
    moved = {"part.py": tmp_path / "one/part/__init__.py", "__init__.py": tmp_path / "one/__init__.py"}
    assert source_hash.source_digest(moved) != found[0]


def test_a_request_without_a_receipt_is_found_whoever_sealed_it(signed, capsys):
    run, public, before = signed
    old_model(run, before)
    edit(run, FORGET, lambda r: r.update(receipt=None))
    (run / receipts.FILE).unlink()
    assert main.main(["verify", str(run), "--public", str(public)]) == 1
    assert f"{FORGET}/state.json has no receipt, and every request to forget has one" in capsys.readouterr().out


def test_a_hash_that_is_empty_is_refused_and_not_passed_over(signed, capsys):
    assert main.main(["verify", str(signed[0]), "--last", ""]) == 2  # as an unset variable of a shell leaves it
    assert "--last takes the 64 hexadecimal digits" in capsys.readouterr().err

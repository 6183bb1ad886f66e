"""A file that was edited and sealed again with wrong types gives one sentence that names it; never another error."""

import base64
import json
import random
import re
import shutil

import pytest

from cl_framework.cli import main
from cl_framework.errors import UserError
from cl_framework.runs import receipts
from cl_framework.storage import envelopes
from cl_framework.storage.files import seal, sha256
from cl_framework.storage.typed_records import FileEntry, parsed

SMALL = [
    "--data.scenario", "ClassIncremental", "--data.scenario.dataset", "glyphs:classes=4,train=4,test=2",
    "--data.scenario.increment", "2", "--data.scenario.order_seed", "null", "--model.strategy", "SimpleCIL",
    "--model.unlearner", "DropAdapter",
]  # fmt: skip
GONE = object()
"""In the place of a value: the field is missing."""
WRONG = (None, True, -7, 1.5, "x", [], [[]], ["x", 3], {}, {"x": {"x": 1}}, GONE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run that forgot a class."""
    path = tmp_path_factory.mktemp("records") / "run"
    assert main.main(["run", *SMALL, "--run_dir", str(path)]) == 0
    assert main.main(["forget", str(path), "--classes", "1"]) == 0
    return path


def places(node, at=()):
    """Yield the way to every value of a record; of a long list only the first one."""
    yield at
    items = node.items() if isinstance(node, dict) else list(enumerate(node))[:1] if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*at, key))


def changed(node, at, value):
    """Return the record with another value in one place."""
    if not at:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    if at[1:] or value is not GONE:
        copy[at[0]] = changed(node[at[0]], at[1:], value)
    else:
        del copy[at[0]]
    return copy


def reseal(run, name, record):
    """Write a record as somebody would who knows how files are sealed, everything that hashes it included."""
    file, record = run / name, {} if record is GONE else record
    if name == "receipts.jsonl":
        body = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        file.write_bytes(envelopes.pack_envelope(body, receipts.TYPE))
    elif not isinstance(record, dict) or name.startswith(UNSEALED) or name.endswith("metrics.json"):
        file.write_bytes(json.dumps(record).encode())
    else:
        file.write_bytes(seal({k: v for k, v in record.items() if k != "sha256"}))
    if name.endswith("metrics.json") or name.startswith("samples/"):
        folder = file.stem if name.startswith("samples/") else file.parent.name
        listed = json.loads((told := run / "events" / folder / "state.json").read_text())
        listed["files"][name] = {"sha256": sha256(file.read_bytes()), "bytes": file.stat().st_size}
        told.write_bytes(seal({k: v for k, v in listed.items() if k != "sha256"}))
    if name == "manifest.json" and isinstance(record, dict):
        mark = json.loads(file.read_text())["sha256"]
        for told in run.glob("events/*/state.json"):
            event = json.loads(told.read_text())
            told.write_bytes(seal({**{k: v for k, v in event.items() if k != "sha256"}, "run": mark}))


UNSEALED = ("results.json", "audit.json", "samples/")
"""Files that hold no hash of their own; the index or an event has it."""


def attempt(capsys, verb, run, *more):
    """Carry a verb out; whatever stops it must be a line for the user."""
    code = main.main([verb, str(run), *more])
    said = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in said.out + said.err
    return code, said.out + said.err


RECORDS = (
    "manifest.json", "outputs.json", "results.json", "receipts.jsonl", "events/000-learn-task-0/state.json",
    "events/002-forget-forget-0/state.json", "events/002-forget-forget-0/metrics.json",
    "samples/002-forget-forget-0.json",
)  # fmt: skip


def content(file):
    """What a record says; of an envelope, what is in it."""
    record = json.loads(file.read_text())
    return json.loads(base64.b64decode(record["payload"])) if "payload" in record else record


def harmed(made, folder, name, values):
    """Yield a run in which each field of a record in turn has another value, and which field and value that is."""
    original, rng = content(made / name), random.Random(name)
    run = shutil.copytree(made, folder / "run")
    for at in places(original):
        for wrong in rng.sample(WRONG, values):
            reseal(run, name, changed(original, at, wrong))
            yield run, at, wrong
            shutil.rmtree(run)
            shutil.copytree(made, run)


@pytest.mark.parametrize("name", RECORDS)
def test_no_wrong_type_in_a_record_stops_a_light_verb_with_another_error(made, tmp_path, capsys, name):
    for run, *_ in harmed(made, tmp_path, name, 2):
        attempt(capsys, "verify", run)
        attempt(capsys, "report", run)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("verb", ["evaluate", "plan-forget", "forget", "resume"])
def test_no_wrong_type_in_a_record_stops_any_verb_with_another_error(made, tmp_path, capsys, name, verb):
    more = ("--classes", "3") if "forget" in verb else ()
    for run, *_ in harmed(made, tmp_path, name, 2):
        attempt(capsys, verb, run, *more)


@pytest.mark.parametrize(
    ("name", "at", "wrong", "verb", "told"),
    [
        ("manifest.json", ("config", "bytes"), "9", "verify", r"manifest\.json is damaged at config\.bytes"),
        ("manifest.json", ("backbone",), [], "evaluate", r"manifest\.json is damaged at backbone: expected `object"),
        ("manifest.json", ("backbone",), GONE, "evaluate", r"manifest\.json is damaged at backbone: expected `object`"),
        ("outputs.json", ("files", "results.csv", "events"), "3", "verify", r"outputs\.json is damaged at files"),
        ("results.json", ("cost", "seconds"), "fast", "report", r"results\.json is damaged at cost\.seconds"),
        ("receipts.jsonl", ("classes",), 3, "verify", r"receipts\.jsonl line 1 is damaged at classes"),
        ("events/000-learn-task-0/state.json", ("files",), {}, "verify", r"state\.json is damaged at files"),
        ("events/000-learn-task-0/state.json", ("state", "steps"), "3", "evaluate", r"state\.json is damaged at steps"),
        ("events/002-forget-forget-0/state.json", ("state", "later", 1, "forget"), 3, "evaluate", "later,"),
        ("events/002-forget-forget-0/metrics.json", ("marks", "kind"), "x", "evaluate", r"damaged at marks\.kind"),
    ],
)  # fmt: skip
def test_file_and_field_are_named(made, tmp_path, capsys, name, at, wrong, verb, told):
    run = shutil.copytree(made, tmp_path / "run")
    reseal(run, name, changed(content(run / name), at, wrong))
    code, said = attempt(capsys, verb, run)
    assert code
    assert re.search(told, said)


def test_a_config_that_is_no_text_is_refused_in_a_sentence(made, tmp_path, capsys):
    run = shutil.copytree(made, tmp_path / "run")
    (run / "config.yaml").write_bytes(raw := b"seed: \xff")
    told = json.loads((run / "manifest.json").read_text())
    reseal(run, "manifest.json", {**told, "config": {"sha256": sha256(raw), "bytes": len(raw)}})
    code, said = attempt(capsys, "verify", run)
    assert code == 1
    assert "config.yaml is damaged: it is no text in UTF-8" in said


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 100_000, b'{"bytes": NaN}', b"\xff", b'{"sha256": "x", "bytes": 1}'])
def test_what_is_no_record_at_all_is_refused_in_a_sentence(raw):
    with pytest.raises(UserError, match=r"outputs\.json .*; restore it from a copy\."):
        parsed(raw, FileEntry, "outputs.json")

"""No file of a run can be edited unnoticed, and whatever an edit leaves is refused in a sentence."""

import random
import shutil
from pathlib import Path

import pytest

from cl_framework.cli.main import main
from cl_framework.runs import derived_files, relocation

KEPT = Path(__file__).parent / "kept_receipts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that forgot twice with an earlier version and once with this one; each test leaves it as it was."""
    folder = tmp_path_factory.mktemp("edited")
    path = shutil.copytree(KEPT, folder / "run")
    assert main(["forget", str(path), "--samples", "4"]) == 0
    relocation.keep(path, [f"/elsewhere={folder}"])
    (path / "audit.json").write_text('{"metrics": {}}')
    derived_files.add(path, ["audit.json"], 5)
    return path


@pytest.fixture
def said(capsys):
    """Carry a verb out; return its exit code and what it said, which is never a traceback."""

    def carried_out(*argv):
        capsys.readouterr()
        code = main([str(a) for a in argv])
        told = capsys.readouterr()
        assert code in (0, 1, 2)
        assert "Traceback" not in told.out + told.err
        return code, told.out + told.err

    return carried_out


def edited(raw, draw):
    """Return bytes that differ from ``raw`` in one place."""
    while True:
        start = draw.randrange(len(raw))
        end = min(len(raw), start + draw.choice((0, 1, 1, 2, 40)))
        new = draw.choice((b"", bytes([draw.randrange(256)]), b" ", b"0", b'"', b"}", b"null", raw[start:end] * 2))
        if (changed := raw[:start] + new + raw[end:]) != raw:
            return changed


def files_of(run):
    return [p for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"]


def test_no_random_edit_of_any_file_passes_for_what_was_written(run, said):
    draw = random.Random(0)
    for file in files_of(run):
        raw = file.read_bytes()
        for _ in range(8):
            file.write_bytes(edited(raw, draw))
            code, words = said("verify", run)
            assert code, file
            assert file.name in words or file.parent.name in words, words
            said("report", run)
        file.write_bytes(raw)
    assert said("verify", run)[0] == 0

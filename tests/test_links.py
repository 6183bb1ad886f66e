"""No link in a run, a shared directory or a cache is written or deleted through; files are for their owner alone."""

import errno
import fcntl
import os
import stat

import pytest
import torch

from cl_framework.cli import main
from cl_framework.errors import UserError
from cl_framework.feature_cache.shared_directory import SharedDirectory
from cl_framework.runs import derived_files, receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.storage import files as storage_files


def features(*ids):
    return {"bare/k/ids": torch.tensor(ids), "bare/k/rows": torch.ones(len(ids), 2)}


@pytest.fixture
def run(tmp_path):
    """A run with everything that a run may hold."""
    run = RunDirectory.create(tmp_path / "run", "seed: 0\n", {})
    run.commit("a", "learn", {"w": torch.ones(2)}, {}, {}, features(0, 1))
    run.commit("f", "forget", {}, {}, {}, features(1), {"request": "f"})
    (run.path / "figures").mkdir()
    for place in ("results.json", "results.csv", "figures/accuracy.png", "audit.json"):
        storage_files.write(run.path / place, b"{}")
        derived_files.add(run.path, [place], 2)
    with run.lock():
        pass
    assert run.verify() == []
    return run


FILES = (
    "manifest.json", "config.yaml", "key", "receipts.jsonl", "outputs.json", "results.json", "results.csv",
    "audit.json", "figures/accuracy.png", ".lock", "events/000-learn-a/state.json",
    "events/000-learn-a/state.safetensors", "features/001-forget-f.safetensors",
)  # fmt: skip
FOLDERS = ("features", "events", "figures", "events/000-learn-a")


def moved_away(run, place, elsewhere):
    """Put a link where something of the run was; return where it points to, with other things of value beside it."""
    elsewhere.mkdir()
    target = elsewhere / "target"
    (run.path / place).rename(target)
    if target.is_dir():
        (target / "of-somebody-else.safetensors").write_bytes(b"precious")
    (run.path / place).symlink_to(target)
    return {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}


@pytest.mark.parametrize("place", FILES + FOLDERS)
def test_a_link_in_a_run_is_named_and_nothing_behind_it_changes(run, place, tmp_path, capsys):
    kept = moved_away(run, place, tmp_path / "elsewhere")
    assert main.main(["verify", str(run.path)]) == 2
    said = capsys.readouterr().err
    assert f"{run.path / place} is a symbolic link to" in said
    assert "nothing is written or deleted through one; put the real file or folder there" in said
    for act in (lambda: RunDirectory.open(run.path), lambda: run.lock().__enter__(), run.sweep):
        try:
            act()
        except UserError:
            continue
    assert {p: p.read_bytes() for p in kept} == kept


@pytest.mark.parametrize("place", FILES)
def test_a_pipe_in_a_run_keeps_nobody_waiting(run, place, capsys):
    (run.path / place).unlink()
    os.mkfifo(run.path / place)
    assert main.main(["verify", str(run.path)]) == 2
    said = capsys.readouterr().err
    assert place == "manifest.json" or f"{run.path / place} is neither a file nor a folder" in said
    assert main.main(["report", str(run.path)]) in (0, 2)


@pytest.mark.parametrize(
    "place", [".tmp-audit.json", ".tmp-manifest.json", "events/.tmp-002-learn-b", "figures/.tmp-x"]
)
def test_a_link_under_a_temporary_name_is_refused_as_well(run, place, tmp_path):
    (target := tmp_path / "target").write_text("precious")
    (run.path / place).symlink_to(target)
    with pytest.raises(UserError, match="is a symbolic link"):
        RunDirectory.open(run.path)
    with pytest.raises(UserError, match="is a symbolic link"):
        run.sweep() if "events" in place else storage_files.replace(run.path / place.replace(".tmp-", ""), b"new")
    assert target.read_text() == "precious"


def test_what_has_a_second_name_elsewhere_is_not_written_into(run, tmp_path):
    for place in (".tmp-audit.json", "audit.json", "receipts.jsonl", ".lock"):
        (copy := tmp_path / place).write_text("a copy with hard links")
        (run.path / place).unlink(missing_ok=True)
        os.link(copy, run.path / place)
        if place == ".lock":
            with run.lock():
                pass
        else:
            storage_files.replace(run.path / place.replace(".tmp-", ""), b"new")
        assert copy.read_text() == "a copy with hard links"


def test_the_run_itself_and_what_it_lies_in_may_be_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    RunDirectory.create(tmp_path / "runs" / "a", "seed: 0\n", {}).commit("a", "learn", {"w": torch.ones(1)}, {}, {})
    (tmp_path / "best").symlink_to(tmp_path / "disk" / "a")
    again = RunDirectory.open(tmp_path / "best")
    again.commit("f", "forget", {}, {}, {}, receipt={"request": "f"})
    assert again.verify() == RunDirectory.open(tmp_path / "runs" / "a").verify() == []
    (tmp_path / "best" / "notes").symlink_to(tmp_path)  # the user's own
    assert RunDirectory.open(tmp_path / "best").verify() == []


@pytest.mark.parametrize("what", ["folder", "file"])
def test_nothing_is_deleted_through_a_link_in_a_shelf(what, tmp_path):
    directory = SharedDirectory(tmp_path / "shared-features", 1)
    directory.put("d", "m", torch.arange(3), torch.ones(3, 2))
    (place,) = (tmp_path / "shared-features").glob("d/m/*.safetensors")
    place = place if what == "file" else place.parent
    place.rename(target := tmp_path / "target")
    place.symlink_to(target)
    for act in (lambda: directory.erase("d", torch.arange(3)), directory.evict, lambda: directory.pieces("d", "m")):
        with pytest.raises(UserError, match="is a symbolic link"):
            act()
    assert target.exists()
    assert what == "file" or len(list(target.iterdir())) == 1


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o277])
def test_a_run_is_for_its_owner_alone_whatever_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        run = RunDirectory.create(tmp_path / "run", "seed: 0\n", {})
        run.commit("a", "learn", {"w": torch.ones(2)}, {}, {}, features(0, 1))
        run.commit("f", "forget", {}, {}, {}, features(1), {"request": "f"})
        with run.lock():
            storage_files.make(run.path / "figures")
            storage_files.replace(run.path / "results.json", b"{}")
    finally:
        os.umask(before)
    modes = {p.relative_to(tmp_path).as_posix(): stat.S_IMODE(p.lstat().st_mode) for p in tmp_path.rglob("*")}
    assert len(modes) > 12
    assert modes.pop("run/.lock") & ~0o600 == 0
    assert {name: oct(mode) for name, mode in modes.items() if mode not in (0o600, 0o700)} == {}


@pytest.mark.parametrize(("number", "told"), [
    (errno.EWOULDBLOCK, "is in use by"), (errno.ENOLCK, "has no locks"), (errno.EOPNOTSUPP, "has no locks"),
    (errno.ENOSYS, "has no locks"),
])  # fmt: skip
def test_a_file_system_without_locks_is_told_apart_from_a_lock_that_is_held(number, told, run, monkeypatch):
    def refuse(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=told) as caught, run.lock():
        pass
    assert "copy the run to a local disk" in str(caught.value) or number == errno.EWOULDBLOCK


def test_what_a_lock_file_says_is_not_printed_as_it_is(run):
    with run.lock():
        (run.path / ".lock").write_text("\x1b[2J everything is fine")
        with pytest.raises(UserError, match="in use by another process"), RunDirectory.open(run.path).lock():
            pass


class Disk:
    """What of the disk a power cut could still undo, from the calls that change it."""

    def __init__(self, monkeypatch):
        self.dirty, self.seen = set(), []
        for name in ("rename", "replace", "unlink", "mkdir", "rmdir", "open", "fsync"):
            monkeypatch.setattr(os, name, self.watched(name, getattr(os, name)))

    def watched(self, name, call):
        def called(first, *args, **kwargs):
            if name in ("rename", "replace"):
                self.renaming(os.fspath(args[0]))
            done = call(first, *args, **kwargs)
            if name == "fsync":
                self.dirty.discard(os.readlink(f"/proc/self/fd/{first}"))
                return done
            at = kwargs.get("dir_fd")
            path = os.path.join(os.readlink(f"/proc/self/fd/{at}"), first) if at is not None else os.path.abspath(first)
            if name in ("rename", "replace"):
                self.dirty.add(os.path.dirname(os.path.abspath(args[0])))
            if name != "open" or (args[0] & os.O_CREAT and not path.endswith(".lock")):
                self.dirty.add(os.path.dirname(path))
            if name == "open" and args[0] & os.O_CREAT and not path.endswith(".lock"):
                self.dirty.add(path)
            return done

        return called

    def renaming(self, new):
        """Note what is not yet for good at the moment when something takes its final name."""
        folder = os.path.dirname(os.path.abspath(new))
        self.seen.append((os.path.basename(new), {d for d in self.dirty if os.path.exists(d)} - {folder}))


def test_nothing_waits_to_be_synced_when_an_event_or_a_receipt_takes_its_name(tmp_path, monkeypatch):
    """Else after a power cut forgotten rows can stand beside a receipt that says `physical`."""
    run = RunDirectory.create(tmp_path / "run", "seed: 0\n", {})
    run.commit("a", "learn", {"w": torch.ones(2)}, {}, {}, features(0, 1))
    storage_files.make(run.path / "figures")
    for place in derived_files.RESULTS:
        storage_files.write(run.path / place, b"{}")
    derived_files.add(run.path, derived_files.RESULTS, 1)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        run.commit("f", "forget", {}, {}, {}, features(1), {"request": "f"})
        final = {d for d in disk.dirty if os.path.exists(d)}
    seen = dict(disk.seen)
    assert {"001-forget-f", receipts.FILE, "state.json", "state.safetensors"} <= seen.keys()
    assert seen["001-forget-f"] == seen[receipts.FILE] == final == set()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Two pictures and the folder that keeps them decoded, under a cache that a test may change."""
    from PIL import Image

    from scenarios.data.source import Pictures
    from scenarios.pictures.picture_cache import cached_pictures
    from scenarios.pictures.transforms import Plain

    monkeypatch.setenv("CLF_CACHE", str(tmp_path / "cache"))
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for i, file in enumerate(files):
        Image.new("RGB", (8, 8), (40 * i, 90, 200)).save(file)

    def pictures():
        return cached_pictures(Pictures("train", files, [0, 1]), Plain(8).fixed(training=False), 10**9)

    pictures().read(torch.arange(2))
    (folder,) = (tmp_path / "cache").iterdir()
    return pictures, folder


@pytest.mark.parametrize("what", ["rows.npy", "pixels.npy", "folder"])
def test_nothing_is_written_or_erased_through_a_link_in_the_cache_of_pictures(cache, what, tmp_path):
    """Rows of forgotten pictures are overwritten with zeros: through a link that would be somebody's file."""
    pictures, folder = cache
    place = folder if what == "folder" else folder / what
    place.rename(target := tmp_path / "target")
    place.symlink_to(target)
    before = {p: p.read_bytes() for p in [target, *target.glob("*")] if p.is_file()}
    assert any(any(content[200:]) for content in before.values())
    for act in (lambda: pictures().release(torch.arange(2)), lambda: pictures().read(torch.arange(2))):
        with pytest.raises(UserError, match=r"is a symbolic link to .*; put the real file or folder there"):
            act()
    assert {p: p.read_bytes() for p in before} == before


def test_the_cache_of_pictures_itself_may_be_a_link(cache, tmp_path):
    pictures, folder = cache
    (tmp_path / "cache").rename(tmp_path / "disk")
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    pictures().release(torch.arange(2))
    assert not any((tmp_path / "disk" / folder.name / "rows.npy").read_bytes()[200:])

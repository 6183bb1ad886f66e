"""A directory of features that several runs share: bounded, safe without locks for readers, and erasable.

``DIR/<data>/<made>/<hash>.safetensors`` holds the ids and features of some samples of one data set, in order of id;
``<made>`` stands for all else that decides a feature. A file's name is the hash of its bytes: it appears under that
name whole, is never changed, and a damaged or edited one is deleted instead of used. Writers take turns by a
file lock, which the system releases when a process dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, final

import torch
from safetensors import SafetensorError
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.feature_cache.rows import fitting
from cl_framework.functional.sorted_ids import among
from cl_framework.storage.files import TEMPORARY, entry, file_hash, refuse_link, remove, sync, write
from cl_framework.storage.locks import locked
from cl_framework.storage.tensors import mapped, packed

STALE = 3600.0
"""Seconds after which a temporary file counts as abandoned."""
MOST_FILES = 16
"""Files of one kind that are merged into one."""


class FeatureFile(NamedTuple):
    """One file, mapped: ids ``(n,)`` in order and features ``(n, width)``."""

    ids: Tensor
    rows: Tensor

    def without(self, others: Iterable[FeatureFile]) -> FeatureFile:
        """Return what is in none of the others."""
        left = ~torch.stack([among(self.ids, other.ids.sort().values) for other in others]).any(0)
        return FeatureFile(self.ids[left], self.rows[left])


@final
class SharedDirectory:
    """A directory of features that several runs share.

    Args:
        path: Where it is; made for its owner alone if it is not there.
        limit: Most bytes to keep; least recently used files are deleted first.

    Raises:
        UserError: If it cannot be written to.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """Make the directory."""
        self.path, self.limit = path, limit
        self._mapped: dict[Path, dict[Path, FeatureFile]] = {}  # by folder and file: no file is checked twice
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)  # may be a link that the user made
            with self._alone():
                pass
        except OSError as error:
            raise UserError(
                f"Features cannot be shared in {path} ({error.strerror}); give --features a directory that you "
                "may write to."
            ) from error

    def pieces(self, data: str, made: str) -> list[FeatureFile]:
        """Return what there is; it stays readable even if the files are taken away meanwhile."""
        folder = self.path / data / made
        before, pieces = self._mapped.get(folder, {}), dict[Path, FeatureFile]()
        for file in self._files(folder):
            piece = before.get(file) or _checked(file)
            with suppress(OSError):
                remove(file) if piece is None else os.utime(file)
            pieces |= {} if piece is None else {file: piece}
        self._mapped[folder] = pieces
        return list(pieces.values())

    def put(self, data: str, made: str, ids: Tensor, rows: Tensor) -> None:
        """Add features ``(n, width)`` of samples ``ids`` that differ.

        Raises:
            OSError: If the disk refuses.
        """
        folder = self.path / data / made
        with self._alone():
            old = self._files(folder)
            whole = [FeatureFile(ids, rows), *(self.pieces(data, made) if len(old) >= MOST_FILES - 1 else ())]
            new = [p if i == 0 else p.without(whole[:i]) for i, p in enumerate(whole)]
            file, piece = self._write(folder, torch.cat([p.ids for p in new]), torch.cat([p.rows for p in new]))
            self._mapped.setdefault(folder, {})[file] = piece
            for other in old if len(whole) > 1 else ():
                if other != file:
                    remove(other)

    def erase(self, data: str, ids: Tensor) -> int:
        """Delete every feature of these samples of a data set, whatever it was made with; return how many.

        Raises:
            OSError: If the disk refuses; nothing of the file in question has changed then.
        """
        gone, count = ids.sort().values, 0
        with self._alone():
            for file in self._files(self.path / data, "*/*"):
                piece = _checked(file)
                hit = among(piece.ids, gone) if piece is not None else torch.ones(0, dtype=torch.bool)
                if piece is not None and not bool(hit.any()):
                    continue
                if piece is not None and not bool(hit.all()):
                    self._write(file.parent, piece.ids[~hit], piece.rows[~hit], file.stat().st_mtime)
                remove(file)
                sync(file.parent)
                count += int(hit.sum())
        return count

    def evict(self) -> None:
        """Delete least recently used files, down to the limit, and temporary files of killed writers."""
        with self._alone():
            for stray in self.path.glob(f"*/*/{TEMPORARY}*"):
                with suppress(OSError):
                    if time.time() - stray.stat().st_mtime > STALE:
                        remove(stray)
            by_age = sorted((s.st_mtime, f, s.st_size) for f, s in _measured(self._files(self.path, "*/*/*")))
            total = sum(size for _, _, size in by_age)
            for _, file, size in by_age:
                if total <= self.limit:
                    break
                remove(file)
                total -= size
                with suppress(OSError):  # others may lie there
                    file.parent.rmdir()
                    file.parent.parent.rmdir()

    def _write(self, folder: Path, ids: Tensor, rows: Tensor, used: float | None = None) -> tuple[Path, FeatureFile]:
        for parent in (folder.parent, folder):
            _refuse_link(self.path, parent)
            parent.mkdir(mode=0o700, exist_ok=True)
        ordered, order = ids.sort()
        parts = packed({"ids": ordered, "rows": rows[order]})
        waiting, final = folder / f"{TEMPORARY}{os.getpid()}", folder / f"{entry(*parts).sha256}.safetensors"
        try:
            write(waiting, *parts, durable=False)  # its name is its hash: a damaged one is not used
            if used is not None:
                os.utime(waiting, (used, used))
            waiting.replace(final)
        finally:
            remove(waiting)
        tensors = mapped(final)
        return final, FeatureFile(tensors["ids"], tensors["rows"])

    def _files(self, folder: Path, pattern: str = "*") -> Sequence[Path]:
        files = sorted(f for f in folder.glob(f"{pattern}.safetensors") if not f.name.startswith(TEMPORARY))
        for file in files:
            _refuse_link(self.path, file)
        return files

    @contextmanager
    def _alone(self) -> Iterator[None]:
        file = self.path.resolve() / ".lock"
        with locked(file, remedy="give --features a directory on a local disk"):
            yield


def _refuse_link(directory: Path, folder: Path) -> None:
    """Refuse a folder within the directory that is a link, or lies in one; the directory itself may be one."""
    for place in (folder, *folder.parents):
        if place == directory:
            return
        if place.is_symlink():
            refuse_link(place)


def _measured(files: Sequence[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    for file in files:
        with suppress(OSError):  # a reader deleted a damaged one
            yield file, file.stat()


def _checked(file: Path) -> FeatureFile | None:
    """Map a file; None if it is gone, or not what its name says."""
    try:
        tensors = mapped(file) if file_hash(file) == file.stem else {}
        piece = FeatureFile(tensors["ids"], tensors["rows"])
        ordered = fitting(*piece) and bool((piece.ids.diff() > 0).all())
        return piece if ordered else None
    except (OSError, RuntimeError, SafetensorError, KeyError):  # torch says RuntimeError where a file has just gone
        return None

"""Cache of pictures from files after the fixed step of their transform, in a mapped file.

``FOLDER/<key>/pixels.npy`` has a row for each picture, ``rows.npy`` says what is in it; the key is a hash of the files,
with sizes and times, and of the step. A row is written when its picture is first read, pixels before their entry, and
checked against its checksum when a process first reads it: a damaged one is made again. Rows written twice hold the
same bytes, so runs share a folder freely. A file takes only as much disk as the rows that were written.

The folder lies outside of every run. Forgetting erases the rows of a picture in all of its files, and a later read of
the picture, if it is still in the data, stores it again.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from functools import cached_property
from hashlib import blake2b, sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, final
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from cl_framework.storage import refuse_link
from scenarios.data.source import LabelledSamples, Pictures, gathered
from scenarios.pictures.decode import in_parallel
from scenarios.pictures.transforms import CPU, Fixed

_ROW = np.dtype([("whose", "<u8"), ("height", "<u4"), ("width", "<u4"), ("crc", "<u4")])
_TEMPORARY = ".new-"
SPARE = 2**30
"""Bytes of the disk that stay free."""


def cache_folder() -> Path:
    """Return the folder of the cache: the environment's CLF_CACHE, or ~/.cache/cl_framework/pictures."""
    return Path(os.environ.get("CLF_CACHE", "~/.cache/cl_framework/pictures")).expanduser()


@final
class CachedPictures(LabelledSamples):
    """Pictures of one split after a fixed step, from the file that keeps them where they are in it.

    Args:
        pictures: The pictures, in files.
        fixed: The step.
        limit: Most bytes to keep in the folder, all data sets together; least recently opened ones are deleted first.
    """

    def __init__(self, pictures: Pictures, fixed: Fixed, limit: int) -> None:
        """Store the arguments."""
        self.files: Sequence[Path] = [] if isinstance(pictures.images, Tensor) else pictures.images
        self.fixed, self.limit = fixed, limit
        self.labels, self.ids, self.keeps = pictures.labels, pictures.ids, True
        self._pictures = pictures

    @property
    def content(self) -> str:
        """That of the pictures."""
        return self._pictures.content

    def read(self, rows: Tensor, device: torch.device = CPU) -> Tensor | list[Tensor]:
        """Return the pictures at ``rows`` after the step: one tensor on ``device``, or a list on the CPU.

        Raises:
            UserError: If a file is missing or cannot be decoded; it is named.
        """
        held = self._held
        if held is None:
            pictures = in_parallel(self._made, rows.tolist())
            return torch.stack(pictures).to(device) if self.fixed.alike else pictures
        with held.shared():
            cached = held.sound(rows)
            known = rows[cached]
            if self.fixed.alike:
                old: Tensor | list[Tensor] = gathered(held.pixels.view(-1, *self.fixed.room), known, device)
            else:
                old = [held.row(i) for i in known.tolist()]
        if bool(cached.all()):
            return old
        missing = rows[~cached].tolist()
        pictures = in_parallel(self._made, missing)
        with suppress(OSError):  # the disk refuses: decoded again next time
            if self.keeps:
                whose = [row_mark(self.files[i]) for i in missing]
                held.add(zip(missing, whose, pictures, strict=True), not self.fixed.alike, self.limit)
        if isinstance(old, Tensor):
            new = torch.stack(pictures).to(device)
            out = new.new_empty(len(rows), *new.shape[1:])
            out[cached.to(device)], out[~cached.to(device)] = old, new
            return out
        first, second = iter(old), iter(pictures)
        return [next(first) if old_one else next(second) for old_one in cached.tolist()]

    def present(self, rows: Tensor) -> Tensor:
        """Ask the pictures."""
        return self._pictures.present(rows)

    def release(self, rows: Tensor) -> None:
        """Erase what the folder has of these files, whatever it was made for, and write zeros over it."""
        files = [self.files[i] for i in rows.tolist()]
        for root, before in self._pictures.former:  # what was kept then goes by the path that it had
            files += [before / f.relative_to(root) for f in files if f.is_relative_to(root)]
        gone = np.array([row_mark(file) for file in files], np.uint64)
        for each in _sets(cache_folder()):
            try:
                _Held(each).erase(gone)
            except (OSError, ValueError):  # an unreadable file is of no use
                shutil.rmtree(each, ignore_errors=True)

    def unkept(self) -> CachedPictures:
        """Return the same pictures, read without adding to the cache."""
        pictures = copy(self)
        pictures.keeps = False
        return pictures

    def _made(self, row: int) -> Tensor:
        return self.fixed.step(self._pictures.decoded(row))

    @cached_property
    def _held(self) -> _Held | None:
        """The file, made if it is not there or not whole; None where none can be made."""
        room, dtype = self.fixed.room, torch.empty(0, dtype=self.fixed.dtype).numpy().dtype
        if self.limit <= 0:
            return None
        # The number changes whenever decoding does: what was decoded in another way is of no use.
        sha = sha256(f"2 {self.fixed.name} {room} {dtype}".encode())
        with suppress(OSError):
            for file in self.files:
                sha.update(f"\0{file.absolute()}\0{_age(file)}".encode())
            place, shape = cache_folder() / sha.hexdigest()[:32], (len(self.files), math.prod(room))
            for _ in range(3):
                try:
                    held = _Held(place)
                    with held.shared():  # a file system may have no locks
                        pass
                    kind = torch.from_numpy(np.empty(0, dtype)).dtype
                    if held.pixels.dtype == kind and held.pixels.shape == shape and held.rows.shape == shape[:1]:
                        os.utime(place)
                        return held
                except FileNotFoundError:
                    self._begin(place, shape, dtype)
                    continue
                except ValueError:
                    pass
                shutil.rmtree(place, ignore_errors=True)  # damaged
        return None

    def _begin(self, place: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Make an empty file; an existing one stays."""
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(place.parent).free < SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        new = Path(mkdtemp(prefix=_TEMPORARY, dir=place.parent))
        try:
            np.lib.format.open_memmap(new / "pixels.npy", "w+", dtype, shape)
            np.lib.format.open_memmap(new / "rows.npy", "w+", _ROW, shape[:1])
            with suppress(OSError):
                new.rename(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)


@final
class _Held:
    """One mapped file and the entries of its rows."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for file in (place / "rows.npy", place / "pixels.npy"):
            refuse_link(file)
        self.rows = np.lib.format.open_memmap(place / "rows.npy", "r+")
        if self.rows.dtype != _ROW:
            raise ValueError(f"{place} holds other records.")
        mapped = np.lib.format.open_memmap(place / "pixels.npy", "r+")
        self.pixels, self.start = torch.from_numpy(mapped), mapped.offset
        self.file = os.open(place / "pixels.npy", os.O_RDWR)
        self.close = finalize(self, os.close, self.file)
        self.checked = torch.zeros(len(self.rows), dtype=torch.bool)

    def row(self, i: int) -> Tensor:
        """Return a copy of what is in a row whose channels come last, as Pillow takes them."""
        shape = (int(self.rows["height"][i]), int(self.rows["width"][i]), 3)
        return self.pixels[i, : math.prod(shape)].clone().view(shape).movedim(-1, 0)

    def sound(self, rows: Tensor) -> Tensor:
        """Return which rows hold a picture, as a mask; each is checked once."""
        entries = self.rows[rows.numpy()]
        present = torch.from_numpy((entries["height"] > 0) & (_numbers(entries) <= self.pixels.shape[1]))
        for i in rows[present & ~self.checked[rows]].tolist():
            values = self.pixels[i, : int(_numbers(self.rows[i]))].numpy().data
            self.checked[i] = zlib.crc32(values) == int(self.rows["crc"][i])
        return present & self.checked[rows]

    def add(self, new: Iterable[tuple[int, int, Tensor]], last: bool, limit: int) -> None:
        """Write pictures while there is room.

        Args:
            new: Row, whose, and the picture.
            last: Whether channels come last.
            limit: Most bytes in the whole folder.

        Raises:
            OSError: If the disk refuses.
        """
        fit = [(i, who, p) for i, who, p in new if p.numel() <= self.pixels.shape[1]]
        if not self._room(sum(p.nbytes for _, _, p in fit), limit):
            return
        for i, who, p in fit:
            data = (p.movedim(0, -1) if last else p).contiguous().numpy().data
            if os.pwrite(self.file, data, self._place(i)) < data.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.rows[i] = (who, p.shape[1], p.shape[2], zlib.crc32(data))
            self.checked[i] = True

    def erase(self, whose: np.ndarray[Any, Any]) -> None:
        """Delete the entries of these files, and write zeros over their rows."""
        with self._lock(exclusive=True):  # no other process copies rows
            for i in (np.isin(self.rows["whose"], whose) & (self.rows["height"] > 0)).nonzero()[0].tolist():
                size = min(int(_numbers(self.rows[i])), self.pixels.shape[1]) * self.pixels.element_size()
                self.rows[i] = (0, 0, 0, 0)
                os.pwrite(self.file, bytes(size), self._place(i))
            self.rows.flush()
            os.fsync(self.file)

    def shared(self) -> AbstractContextManager[None]:
        """Block erasing while rows are copied."""
        return self._lock(exclusive=False)

    @contextmanager
    def _lock(self, exclusive: bool) -> Iterator[None]:
        import fcntl

        fcntl.flock(self.file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def _place(self, row: int) -> int:
        """Return where a row begins in the file."""
        return self.start + row * self.pixels.stride(0) * self.pixels.element_size()

    def _room(self, size: int, limit: int) -> bool:
        """Make room for ``size`` bytes, and return whether there is."""
        parent = self.place.parent
        own = _taken(self.place)
        others = sorted((e.stat().st_mtime, e, _taken(e)) for e in _sets(parent) if e != self.place)
        total = own + size + sum(taken for _, _, taken in others)
        for _, each, taken in others if own + size <= limit else ():
            if total <= limit:
                break
            shutil.rmtree(each, ignore_errors=True)
            total -= taken
        return total <= limit and shutil.disk_usage(parent).free - size >= SPARE


def cached_pictures(pictures: LabelledSamples, fixed: Fixed | None, limit: int) -> CachedPictures | None:
    """Return pictures after a fixed step, if there is such a step and they are in files; ``limit`` 0 keeps nothing."""
    if fixed is None or not isinstance(pictures, Pictures) or isinstance(pictures.images, Tensor):
        return None
    return CachedPictures(pictures, fixed, limit)


def _numbers(entries: Any) -> Any:
    """Return the number of values in rows, from their entries."""
    return 3.0 * entries["height"] * entries["width"]  # floats, which invalid entries cannot overflow


def _sets(place: Path) -> list[Path]:
    folders = [each.parent for each in place.glob("*/rows.npy") if not each.parent.name.startswith(_TEMPORARY)]
    for each in folders:
        refuse_link(each / "rows.npy")
        refuse_link(each / "pixels.npy")
    return folders


def _taken(place: Path) -> int:
    """Return the bytes of the disk that a folder's files take: rows not written take none."""
    total = 0
    for file in place.glob("*"):
        with suppress(OSError):  # another process deleted it
            total += file.stat().st_blocks * 512
    return total


def _age(file: Path) -> str:
    """Return size and time of a file, which identify it; nothing for a missing one."""
    with suppress(FileNotFoundError):
        stat = file.stat()
        return f"{stat.st_size}\0{stat.st_mtime_ns}"
    return ""


def row_mark(file: Path) -> int:
    """Return a short hash of a file's path."""
    return int.from_bytes(blake2b(str(file.absolute()).encode(), digest_size=8).digest(), "little")

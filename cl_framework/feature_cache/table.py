"""Rows by sample id that grow at the end, in memory or in an unnamed file that no other process can open."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import final

import torch
from torch import Tensor

from cl_framework.functional.sorted_ids import _inserted, among
from cl_framework.storage.files import TEMPORARY


@final
class Table:
    """Rows ``(n, width)`` in the order they came in, found by id.

    A file is mapped, not read. It has no name: it ends with the process, even a killed one.

    Args:
        folder: Folder for the file of the rows; None for memory.

    Raises:
        OSError: From `add`, if the disk has no room; the table is then as it was.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Start empty."""
        self.folder = folder
        self._sorted = self._at = torch.empty(0, dtype=torch.int64)  # ids in order, and the row of each
        self._rows: Tensor | None = None  # with room at the end

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._at)

    @property
    def bytes(self) -> int:
        """Size of the rows there are."""
        return 0 if self._rows is None else len(self) * self._rows.shape[1] * self._rows.element_size()

    @property
    def ids(self) -> Tensor:
        """Ids ``(n,)`` in the order they came in."""
        return torch.empty_like(self._sorted).scatter_(0, self._at, self._sorted)

    @property
    def rows(self) -> Tensor:
        """The rows ``(n, width)`` themselves, not a copy."""
        return torch.empty(0, 0) if self._rows is None else self._rows[: len(self)]

    def has(self, ids: Tensor) -> Tensor:
        """Return which of ``ids`` ``(k,)`` are here, as a mask ``(k,)``."""
        return among(ids, self._sorted)

    def read(self, ids: Tensor) -> Tensor:
        """Return a copy of the rows of ``ids``, all of which are here."""
        return self.rows[self._at[torch.searchsorted(self._sorted, ids.cpu())]]

    def add(self, ids: Tensor, rows: Tensor) -> None:
        """Keep copies of rows ``(k, width)`` whose ids are new and differ."""
        start, end = len(self), len(self) + len(ids)
        if self._rows is None or end > len(self._rows):
            self._rows = self._room(max(end, 2 * start), rows)
        self._rows[start:end] = rows.detach()
        new, order = ids.cpu().sort()
        at = torch.searchsorted(self._sorted, new) + torch.arange(len(new))
        self._sorted, self._at = _inserted(self._sorted, at, new), _inserted(self._at, at, start + order)

    def without(self, ids: Tensor, folder: Path | None) -> Table:
        """Return a table of the other rows in the same order, in ``folder``; it shares no memory with this one."""
        table, mine = Table(folder), self.ids
        keep = ~among(mine, ids.cpu().sort().values)
        table._rows = table._room(int(keep.sum()), self.rows) if len(self) else None
        for part, at in zip(torch.split(mine, BLOCK), torch.split(torch.arange(len(self)), BLOCK), strict=True):
            mask = keep[at]
            if bool(mask.any()):
                table.add(part[mask], self.rows[at[mask]])
        return table

    def _room(self, n: int, like: Tensor) -> Tensor:
        """Return space for ``n`` rows, beginning with those there are."""
        width, size = like.shape[1], like.element_size()
        if self.folder is None:
            room = like.new_empty(n, width, device="cpu")
        else:
            room = _mapped(self.folder, max(1, n * width * size))[: n * width * size].view(like.dtype).view(n, width)
        if len(self):
            room[: len(self)] = self.rows
        return room


def _mapped(folder: Path, size: int) -> Tensor:
    """Return bytes ``(size,)`` of a new file, which has lost its name before anything is written to it."""
    with NamedTemporaryFile(dir=folder, prefix=TEMPORARY) as file:
        reserve = getattr(os, "posix_fallocate", None)  # a full disk raises here, not at the first write
        file.truncate(size) if reserve is None else reserve(file.fileno(), 0, size)
        try:
            return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
        except RuntimeError as error:
            raise OSError(str(error)) from error


BLOCK = 16384
"""Rows that are copied at once from file to file."""

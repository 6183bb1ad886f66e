"""Features shared between runs: what a run reads from others, and what it writes once a request is recorded.

A feature is filed under all that decides it: the bytes of the data set, the transform, the weights and settings of
backbone and adapters, the precision, the device, the versions and the code of what computes. A feature of another run
therefore equals, bit for bit, what would be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias, final

import torch
from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.feature_cache.shared_directory import FeatureFile, SharedDirectory
from cl_framework.feature_cache.table import Table
from cl_framework.functional.sorted_ids import among
from cl_framework.storage.files import sha256
from cl_framework.streams.events import Experience, Step

ContentHash: TypeAlias = Callable[[str], str | None]
"""Returns the hash of the bytes behind a source, split and transform; None if unknown."""


@final
class SharedFeatures:
    """The features of a shared directory, for one run: read at any time, written when a request has been recorded.

    A killed process has written nothing that it had not recorded, so the next one finds the same features.

    Args:
        directory: The directory.
        made: Hash of all that decides a feature besides the sample and the adapters' weights.
        contents: Tells data sets apart by their bytes, whatever they are called.
    """

    def __init__(self, directory: SharedDirectory, made: str, contents: ContentHash) -> None:
        """Start without reads."""
        self.directory, self.made, self.contents = directory, made, contents
        self._now: dict[str, list[FeatureFile]] = {}  # as it was when a key was first read during this request

    def offer(self, key: str, ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return ids ``(k,)`` and features ``(k, width)`` of those among the samples ``ids`` that are there, if any."""
        pieces, ids = list[FeatureFile](), ids.cpu()
        for piece in self._pieces(key):
            here = among(ids, piece.ids)
            if bool(here.any()):
                pieces.append(FeatureFile(ids[here], piece.rows[torch.searchsorted(piece.ids, ids[here])]))
                ids = ids[~here]
        return (torch.cat([p.ids for p in pieces]), torch.cat([p.rows for p in pieces])) if pieces else None

    def settle(self, new: Mapping[str, tuple[Tensor, Table]], gone: Iterable[tuple[str, Tensor]]) -> None:
        """Remove samples that must be forgotten, under whatever they were filed; then write what is new.

        Raises:
            UserError: If something must go and cannot be reached.
        """
        self._now.clear()
        try:
            for samples, ids in gone:
                if (data := self.contents(samples)) is not None:
                    self.directory.erase(data_folder(data), ids.cpu())
        except OSError as error:
            raise UserError(
                f"The request is recorded, but features of what was forgotten are still in {self.directory.path} "
                f"({error.strerror}); make it writable, then `clf resume` the run."
            ) from error
        try:
            if any([self._give(key, ids, table) for key, (ids, table) in new.items()]):
                self.directory.evict()
        except OSError:  # a shared directory that takes no more is no reason to stop
            pass
        self._now.clear()

    def _give(self, key: str, ids: Tensor, table: Table) -> bool:
        """Write those features of the samples ``ids`` that are not there; tell whether there were any."""
        place = self._place(key)
        for piece in self.directory.pieces(*place) if place is not None else ():
            ids = ids[~among(ids, piece.ids)]
        if place is None or not len(ids):
            return False
        self.directory.put(*place, ids, table.read(ids))
        return True

    def _pieces(self, key: str) -> list[FeatureFile]:
        if key not in self._now:
            place = self._place(key)
            self._now[key] = [] if place is None else self.directory.pieces(*place)
        return self._now[key]

    def _place(self, key: str) -> tuple[str, str] | None:
        data = self.contents(key.partition("/")[2])
        return None if data is None else (data_folder(data), sha256(f"{self.made}\0{key}".encode())[:32])


def contents_of(steps: Collection[Step]) -> ContentHash:
    """Return what tells the data of a stream apart; nothing is read before a source is asked for."""
    parts = [p for s in steps if isinstance(s.event, Experience) for p in (*s.event.reference.sources, *s.exam.sources)]
    hashes_by_key: dict[str, str | None] = {}

    def content(samples: str) -> str | None:
        if samples not in hashes_by_key:
            hashes = {p.content for p in parts if p.key == samples}
            known = sorted(h for h in hashes if h is not None)
            hashes_by_key[samples] = (
                None if not known or None in hashes else known[0] if len(known) == 1 else _joint(known)
            )
        return hashes_by_key[samples]

    return content


def _joint(hashes: Iterable[str]) -> str:
    return sha256("\0".join(hashes).encode())


def data_folder(data: str) -> str:
    """Return the folder of a source's features, from a hash of its content."""
    return sha256(data.encode())[:32]

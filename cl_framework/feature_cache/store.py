"""The feature store: each (adapter, sample) pair under the test transform is computed at most once in a run.

The backbone is frozen and so is a finished adapter, hence a feature never changes. Passes run in chunks of a fixed
size, the last one padded, so that a feature depends on its own sample alone, bit for bit: a stored feature equals one
computed again in any other batch. `sharing` adds features of other runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, final

import torch
from torch import Tensor, nn

from cl_framework.feature_cache.table import Table

CHUNK = 64


class FeatureSource(Protocol):
    """Source of features that other runs have computed."""

    def offer(self, key: str, ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return stored ids ``(k,)`` and features ``(k, width)`` among the samples ``ids``; None if there are none."""

    def settle(self, new: Mapping[str, tuple[Tensor, Table]], gone: Iterable[tuple[str, Tensor]]) -> None:
        """Take up ``new`` features: by key, whose and where they are. Let go of ``gone`` samples.

        Args:
            new: By key, the ids ``(n,)`` of samples, and the table that holds them among others.
            gone: Sample ids by source, split and transform.
        """


@final
class FeatureStore:
    """Features by key and sample id, in memory up to a budget and in mapped files beyond it.

    Args:
        budget: Most bytes to hold in memory; zero turns the store off. Results do not depend on it.
        folder: Folder for what does not fit in memory; None computes it again each time.
        limit: Most bytes to put there.

    Attributes:
        source: Source of features that are not here; None if there is none.
        found: How many features it had.
    """

    def __init__(self, budget: int = 512 * 2**20, folder: Path | None = None, limit: int = 8 * 2**30) -> None:
        """Start empty."""
        self.budget, self.folder, self.limit = budget, folder, limit
        self.source: FeatureSource | None = None
        self.found = 0
        self._tables: dict[str, Table] = {}
        self._new: dict[str, list[Tensor]] = {}  # ids since the last request was settled

    @property
    def bytes(self) -> int:
        """Size of the features held in memory."""
        return sum(t.bytes for t in self._tables.values() if t.folder is None)

    @property
    def spilled(self) -> int:
        """Size of the features held in files."""
        return sum(t.bytes for t in self._tables.values() if t.folder is not None)

    def known(self, key: str, ids: Tensor) -> Tensor:
        """Return a mask ``(n,)`` of the samples whose features are stored."""
        return self._tables.get(key, EMPTY).has(ids)

    def find(self, key: str, ids: Tensor) -> Tensor:
        """Return the same, after asking the source for those that are not."""
        known = self.known(key, ids)
        if self.source is None or bool(known.all()):
            return known
        offered = self.source.offer(key, ids[~known])
        if offered is None:
            return known
        before = self._count(key)
        self.write(key, *offered)
        self.found += self._count(key) - before
        return self.known(key, ids)

    def keys(self, samples: str) -> list[str]:
        """Return the keys under which features of the source, split and transform ``samples`` are stored."""
        return [k for k in self._tables if k.partition("/")[2] == samples]

    def read(self, key: str, ids: Tensor) -> Tensor:
        """Return stored features ``(n, width)``."""
        return self._tables[key].read(ids)

    def write(self, key: str, ids: Tensor, features: Tensor) -> None:
        """Keep features ``(n, width)`` of samples that are not stored yet, while there is room."""
        table = self._tables.get(key, EMPTY)
        new = ~table.has(ids)
        new &= _first(ids)
        ids, features = ids[new], features[new.to(features.device)]
        size = features.numel() * features.element_size()
        if not size or not self.budget:
            return
        try:
            if table.folder is None and self.bytes + size > self.budget:
                if self.folder is None or self.spilled + table.bytes + size > self.limit:
                    return
                table = table.without(ids, self.folder)
            elif table.folder is not None and self.spilled + size > self.limit:
                return
            elif table is EMPTY:
                table = Table()
            table.add(ids, features)
        except OSError:  # no room on the disk: storing features is optional
            return
        self._tables[key] = table
        self._new.setdefault(key, []).append(ids)

    def settle(self, gone: Collection[tuple[str | None, Tensor]] = ()) -> None:
        """Tell the source, once a request has been recorded, what is new and which samples must be forgotten.

        Args:
            gone: Sample ids by source, split and transform.
        """
        if self.source is not None:
            new: dict[str, tuple[Tensor, Table]] = {}
            for key in sorted(self._new.keys() & self._tables.keys()):
                ids, table = torch.unique(torch.cat(self._new[key])), self._tables[key]
                new[key] = ids[table.has(ids)], table
            self.source.settle(new, [(samples, ids) for samples, ids in gone if samples is not None])
        self._new.clear()

    def keep_only(self, adapters: Iterable[str], stack: Sequence[str] = ()) -> None:
        """Delete the features of adapters that changed or are gone, and those made under another stack of edits.

        Args:
            adapters: Digests of the adapters there are.
            stack: Digests of the edits that every pass goes through now, in order.
        """
        live, end = set(adapters), list(stack)

        def valid(key: str) -> bool:
            made_with = key.split("/")[0].split("+")
            return set(made_with) <= live and made_with[len(made_with) - len(end) :] == end

        self._tables = {k: table for k, table in self._tables.items() if valid(k)}

    def drop(self, samples: str | None, ids: Tensor) -> None:
        """Delete the features of the samples ``ids`` of the source, split and transform named by ``samples``."""
        for key in self.keys(samples) if samples is not None else []:
            table = self._tables.pop(key)
            if not bool(table.has(ids).any()):
                self._tables[key] = table
                continue
            with suppress(OSError):  # without room for a file of the others, they are deleted too and computed again
                left = table.without(ids, table.folder)
                self._tables |= {key: left} if len(left) else {}

    def state(self) -> dict[str, Tensor]:
        """Return everything stored, as pairs ``<key>/ids`` and ``<key>/rows``; the rows are not copies."""
        return {
            f"{key}/{part}": value
            for key, t in self._tables.items()
            for part, value in (("ids", t.ids), ("rows", t.rows))
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly what ``state`` returned in an earlier process."""
        self._tables = {}
        self.take(state)

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Hold that too."""
        for name, ids in state.items():
            if name.endswith("/ids"):
                self.write(name.removesuffix("/ids"), ids, state[name.removesuffix("ids") + "rows"])

    def _count(self, key: str) -> int:
        return len(self._tables.get(key, EMPTY))


EMPTY = Table()


def _first(ids: Tensor) -> Tensor:
    """Return a mask ``(n,)`` of the places where an id occurs for the first time.

    >>> _first(torch.tensor([5, 3, 5])).tolist()
    [True, True, False]
    """
    ordered, order = ids.cpu().sort(stable=True)
    new = torch.ones(len(ids), dtype=torch.bool)
    new[order[1:]] = ordered[1:] != ordered[:-1]
    return new


def weights_digest(module: nn.Module | None) -> str:
    """Return a short hash of a module's weights; ``bare`` for none."""
    if module is None:
        return "bare"
    sha = hashlib.sha256()
    for name, value in module.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]

"""The feature store: each (adapter, sample) pair under the test transform is computed at most once in a run.

The backbone is frozen and so is a finished adapter, hence a feature never changes. Passes run in chunks of a fixed
size, the last one padded, so that a feature depends on its own sample alone, bit for bit: what is found in the store
equals what would be computed again in any other company.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

CHUNK = 64


@final
class FeatureStore:
    """Features by key and sample id, within a budget; what does not fit is computed again each time.

    Args:
        budget: Most bytes to hold; zero turns the store off. Numbers are the same either way.
    """

    def __init__(self, budget: int = 512 * 2**20) -> None:
        """Start empty."""
        self.budget, self.bytes = budget, 0
        self._rows: dict[str, dict[int, Tensor]] = {}

    def known(self, key: str, ids: Tensor) -> Tensor:
        """Return a mask ``(n,)`` of the samples whose features are stored."""
        rows = self._rows.get(key, {})
        return torch.tensor([i in rows for i in ids.tolist()], dtype=torch.bool)

    def keys(self, samples: str) -> list[str]:
        """Return the keys under which features of the source, split and transform ``samples`` are stored."""
        return [k for k in self._rows if k.partition("/")[2] == samples]

    def read(self, key: str, ids: Tensor) -> Tensor:
        """Return stored features ``(n, width)``."""
        rows = self._rows[key]
        return torch.stack([rows[i] for i in ids.tolist()])

    def write(self, key: str, ids: Tensor, features: Tensor) -> None:
        """Keep features ``(n, width)`` while the budget lasts."""
        size = features.numel() * features.element_size()
        if self.bytes + size > self.budget:
            return
        self.bytes += size
        self._rows.setdefault(key, {}).update(zip(ids.tolist(), (z.clone() for z in features), strict=True))

    def keep_only(self, adapters: Iterable[str], stack: Sequence[str] = ()) -> None:
        """Drop the features of every adapter that changed or is gone, and those made under another stack of edits.

        Args:
            adapters: Digests of the adapters there are.
            stack: Digests of the edits that every pass goes through now, in order.
        """
        live, end = set(adapters), list(stack)

        def valid(key: str) -> bool:
            made_with = key.split("/")[0].split("+")
            return set(made_with) <= live and made_with[len(made_with) - len(end) :] == end

        self._replace({k: rows for k, rows in self._rows.items() if valid(k)})

    def drop(self, samples: str | None, ids: Tensor) -> None:
        """Drop the features of the samples ``ids`` of the source, split and transform named by ``samples``."""
        gone = set(ids.tolist())
        self._replace(
            {
                k: {i: z for i, z in rows.items() if i not in gone} if k.partition("/")[2] == samples else rows
                for k, rows in self._rows.items()
            }
        )

    def count(self, samples: str | None, ids: Tensor) -> int:
        """Count the features held of the samples ``ids`` of the source, split and transform named by ``samples``."""
        wanted = set(ids.tolist())
        return sum(len(wanted & rows.keys()) for k, rows in self._rows.items() if k.partition("/")[2] == samples)

    def rows_of(self, adapter: str) -> int:
        """Count the features that were made with the adapter of this digest."""
        return sum(len(rows) for k, rows in self._rows.items() if adapter in k.split("/")[0].split("+"))

    def state(self) -> dict[str, Tensor]:
        """Return everything stored, as pairs ``<key>/ids`` and ``<key>/rows``."""
        pairs = {}
        for key, rows in self._rows.items():
            if rows:
                pairs[f"{key}/ids"] = torch.tensor(list(rows), dtype=torch.int64)
                pairs[f"{key}/rows"] = torch.stack(list(rows.values()))
        return pairs

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly what ``state`` returned in an earlier process."""
        self._replace(
            {
                k.removesuffix("/ids"): dict(zip(ids.tolist(), state[k.removesuffix("ids") + "rows"], strict=True))
                for k, ids in state.items()
                if k.endswith("/ids")
            }
        )

    def _replace(self, rows: dict[str, dict[int, Tensor]]) -> None:
        self._rows = {k: v for k, v in rows.items() if v}
        self.bytes = sum(z.numel() * z.element_size() for v in self._rows.values() for z in v.values())


def digest(module: nn.Module | None) -> str:
    """Return a short hash of a module's weights; ``bare`` for none."""
    if module is None:
        return "bare"
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]

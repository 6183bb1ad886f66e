"""Frozen passes: features without gradients, each computed once where a store knows it, whatever its company."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.batched import signature
from cl_framework.backbones.base import Backbone
from cl_framework.feature_cache.store import CHUNK, FeatureStore, weights_digest
from cl_framework.models.batched_passes import Passes
from cl_framework.models.finite import check_features
from cl_framework.streams.lazy_inputs import Inputs


@final
class FrozenPasses:
    """Passes of a frozen backbone under finished adapters.

    Attributes:
        precision: What to compute in, as training does; None for single precision. Features are single ones.
        batched: Whether a pass may hold several adapters at once, where their kind can.
    """

    def __init__(self, backbone: Backbone, bank: AdapterBank, count: Callable[[int], None]) -> None:
        """Make no pass yet; ``count`` is told of the images of each."""
        self.backbone, self.bank, self._count = backbone, bank, count
        self.precision: torch.dtype | None = None
        self.batched = True
        self._shared = Passes(backbone, bank)

    def one(self, x: Inputs, store: FeatureStore) -> Tensor:
        """Return features ``(n, width)`` under the adapters in use, as `__call__` does."""
        return self(x, [self.bank.applied], torch.ones(1, len(x), dtype=torch.bool), store)[0]

    @torch.no_grad()
    def __call__(self, x: Inputs, applied: Sequence[tuple[str, ...]], wanted: Tensor, store: FeatureStore) -> Tensor:
        """Return features ``(k, n, width)`` from the store or from passes, zeros where they are not wanted.

        Args:
            x: Inputs.
            applied: ``k`` choices of adapters, each the names that a pass goes through in this order.
            wanted: ``(k, n)`` bool, the features to return.
            store: Where known features are read, and new ones written.

        Raises:
            UserError: If an input is out of range, or a feature not finite.
        """
        device = self._device
        keys = [self._key(x, names) if bool(mask.any()) else None for names, mask in zip(applied, wanted, strict=True)]
        out = torch.zeros(*wanted.shape, self.backbone.width, device=device)
        missing = wanted.clone()
        for i, key in enumerate(keys):
            rows = wanted[i].nonzero()[:, 0]
            if key is not None and len(known := rows[store.find(key, x.ids[rows])]):
                out[i, known] = store.read(key, x.ids[known]).to(out.device)
                missing[i, known] = False
        if not bool(missing.any()):
            return out
        self.backbone.check_values(x.tensor)
        for which, samples, z in self._fresh(x, applied, missing, store):
            out[which, samples] = z
        for i, names in enumerate(applied):
            check_features(out[i], x.ids.tolist(), x, names)
        for i, key in enumerate(keys):
            if key is not None and bool(missing[i].any()):
                store.write(key, x.ids[missing[i]], out[i, missing[i]].cpu())
        return out

    def _key(self, x: Inputs, names: Sequence[str]) -> str | None:
        coupled = bool(names) and self.bank.adapter.coupled  # no feature of one sample, so none to be remembered
        return None if x.key is None or coupled else f"{'+'.join(self.digests(names)) or 'bare'}/{x.key}"

    def _fresh(
        self, x: Inputs, applied: Sequence[tuple[str, ...]], missing: Tensor, store: FeatureStore
    ) -> Iterator[tuple[Tensor | int, Tensor, Tensor]]:
        """Compute missing features, of adapters that can be batched: choices, samples, and features."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for i in missing.any(1).nonzero()[:, 0].tolist():
            coupled = bool(applied[i]) and self.bank.adapter.coupled
            alike = signature(self.bank.modules_of(applied[i])) if self.batched and not coupled else None
            if alike is not None:
                groups.setdefault(alike, []).append(i)
                continue
            rows = missing[i].nonzero()[:, 0]
            with self.bank.using(*applied[i]):
                yield i, rows, self._in_chunks(x if bool(missing[i].all()) else x[rows], not coupled, store)
        for members in groups.values():
            self._count(int(missing[members].sum()))
            adapters, choices = [self.bank.modules_of(applied[i]) for i in members], torch.tensor(members)
            for same in (rows.cpu() for rows in by_length(self.backbone, x.tensor)):
                here = missing[members][:, same]
                if bool(here.any()):
                    with self._computing():
                        features = list(self._shared(x.tensor[same.to(x.tensor.device)], self._device, adapters, here))
                    yield from ((choices[which], same[rows], z) for which, rows, z in features)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute as frozen passes do: nothing drops out, in the precision of training."""
        training = self.bank.training
        if training:  # this walks over every adapter there is
            self.bank.eval()
        try:
            with torch.autocast(self._device.type, self.precision, enabled=self.precision is not None):
                yield
        finally:
            if training:
                self.bank.train()

    def _in_chunks(self, given: Inputs, pad: bool, store: FeatureStore) -> Tensor:
        """Pass inputs through the backbone in chunks of one size and length: a row's bits depend on that row alone.

        Where rows are coupled, a padded one would have its say: chunks are then left as they are.
        """
        query = self._query(given, store) if self.bank.asking else None
        x, company = given.tensor, (None if pad else self.bank.adapter.together) or CHUNK
        self._count(len(x))
        rows, pieces = [part for alike in by_length(self.backbone, x) for part in torch.split(alike, company)], []
        for r in rows:
            size = CHUNK if pad else len(r)
            part = _padded(x[r.to(x.device)].to(self._device), size)
            asked = self.bank.hooks.asked(None if query is None else _padded(query[r.to(query.device)], size))
            with asked, self._computing():
                pieces.append(self.backbone(part)[: len(r)].float())
        return torch.cat(pieces)[torch.cat(rows).argsort().to(self._device)]

    def _query(self, x: Inputs, store: FeatureStore) -> Tensor:
        with self.bank.pristine():
            return self.one(x, store)

    def digests(self, names: Iterable[str]) -> list[str]:
        """Return a hash of each named adapter's weights."""
        return [weights_digest(self.bank.rewrites[n]) for n in names]

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device


def by_length(backbone: Backbone, x: Tensor) -> list[Tensor]:
    """Return the rows of inputs by their length; there is always one list."""
    lengths = backbone.lengths(x)
    return [(lengths == n).nonzero()[:, 0] for n in sorted(set(lengths.tolist()))] or [lengths]


def _padded(x: Tensor, size: int) -> Tensor:
    """Return ``x`` with rows of zeros added up to a number of rows."""
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])

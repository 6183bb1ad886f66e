"""Features that runs lend each other: what a run may take for its own, and what it gives once a request is recorded.

A feature is filed under all that decides it: the bytes of the data set, the transform, the weights and settings of
backbone and adapters, the precision, the device, the versions and the code of what computes. What another run has left
there is therefore bit for bit what would be computed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias, final

import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional
from torch import Tensor

from cl_framework import sources
from cl_framework.errors import UserError
from cl_framework.experiment import Experiment
from cl_framework.sealed import sha256
from cl_framework.shelf import Piece, Shelf
from cl_framework.stream import Experience, Scenario, Step
from cl_framework.table import Table, among

PACKAGES = ("torch", "torchvision", "timm", "transformers", "peft", "numpy")
ELSEWHERE = ("strategy", "unlearner", "optimizer", "schedule", "head")
"""What of the ``model:`` section decides no feature, or only through an adapter's weights."""

Contents: TypeAlias = Callable[[str], str | None]
"""Returns the hash of the bytes behind a source, split and transform; None if nobody knows."""


@final
class Borrowing:
    """A run's dealings with the shelf: it takes what is there, and gives when a request has been recorded.

    Whatever a killed process had not recorded it had not given either, so that the next one finds what it found.

    Args:
        shelf: The directory.
        made: Hash of all that decides a feature besides the sample and the adapters' weights.
        contents: Tells data sets apart by their bytes, whatever they are called.
    """

    def __init__(self, shelf: Shelf, made: str, contents: Contents) -> None:
        """Start with nothing in hand."""
        self.shelf, self.made, self.contents = shelf, made, contents
        self._now: dict[str, list[Piece]] = {}  # as it was when a key was first asked for during this request

    def offer(self, key: str, ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return ids ``(k,)`` and features ``(k, width)`` of those among the samples ``ids`` that are there, if any."""
        found, ids = list[Piece](), ids.cpu()
        for piece in self._pieces(key):
            here = among(ids, piece.ids)
            if bool(here.any()):
                found.append(Piece(ids[here], piece.rows[torch.searchsorted(piece.ids, ids[here])]))
                ids = ids[~here]
        return (torch.cat([p.ids for p in found]), torch.cat([p.rows for p in found])) if found else None

    def settle(self, new: Mapping[str, tuple[Tensor, Table]], gone: Iterable[tuple[str, Tensor]]) -> None:
        """Take samples that must be forgotten off the shelf, under whatever they were filed; then give what is new.

        Raises:
            UserError: If something must go and cannot be reached.
        """
        self._now.clear()
        try:
            for samples, ids in gone:
                if (data := self.contents(samples)) is not None:
                    self.shelf.erase(_folder(data), ids.cpu())
        except OSError as error:
            raise UserError(
                f"The request is recorded, but features of what was forgotten are still in {self.shelf.path} "
                f"({error.strerror}); make it writable, then `clf resume` the run."
            ) from error
        try:
            if any([self._give(key, ids, table) for key, (ids, table) in new.items()]):
                self.shelf.evict()
        except OSError:  # a shelf that takes no more is no reason to stop
            pass
        self._now.clear()

    def _give(self, key: str, ids: Tensor, table: Table) -> bool:
        """Put those features of the samples ``ids`` on the shelf that are not there; tell whether there were any."""
        place = self._place(key)
        for piece in self.shelf.pieces(*place) if place is not None else ():
            ids = ids[~among(ids, piece.ids)]
        if place is None or not len(ids):
            return False
        self.shelf.put(*place, ids, table.read(ids))
        return True

    def _pieces(self, key: str) -> list[Piece]:
        if key not in self._now:
            place = self._place(key)
            self._now[key] = [] if place is None else self.shelf.pieces(*place)
        return self._now[key]

    def _place(self, key: str) -> tuple[str, str] | None:
        data = self.contents(key.partition("/")[2])
        return None if data is None else (_folder(data), sha256(f"{self.made}\0{key}".encode())[:32])


def borrowing(experiment: Experiment, weights: str, scenario: Scenario, begun: bool) -> Borrowing | None:
    """Return a run's dealings with the directory that its config names, if it does.

    Args:
        experiment: What runs.
        weights: Hash of the backbone's weights.
        scenario: The whole stream.
        begun: Whether it has recorded events. If the directory is gone since, it goes on without.

    Raises:
        UserError: If the directory cannot be written to.
    """
    shelf = None if begun and experiment.features and not experiment.features.exists() else shelf_of(experiment)
    if shelf is None:
        return None
    model, device = experiment.learner.model, experiment.make_trainer(None).strategy.root_device
    made = made_with(experiment.config, weights, device, model.backbone, model.adapters.adapter, experiment.scenario)
    return Borrowing(shelf, made, contents_of(list(scenario.steps())))


def shelf_of(experiment: Experiment) -> Shelf | None:
    """Return the shelf in the directory that a run's config names, if it does.

    Raises:
        UserError: If the directory cannot be written to.
    """
    directory, limit = experiment.features, int(experiment.features_limit * 2**30)
    return None if directory is None else Shelf(directory, limit)


def contents_of(steps: Collection[Step]) -> Contents:
    """Return what tells the data of a stream apart; nothing is read before it is asked."""
    parts = [p for s in steps if isinstance(s.event, Experience) for p in (*s.event.reference.sources, *s.exam.sources)]
    told: dict[str, str | None] = {}

    def content(samples: str) -> str | None:
        if samples not in told:
            hashes = {p.content for p in parts if p.key == samples}
            known = sorted(h for h in hashes if h is not None)
            told[samples] = None if not known or None in hashes else known[0] if len(known) == 1 else _joint(known)
        return told[samples]

    return content


def made_with(config: str, weights: str, device: torch.device, *parts: object) -> str:
    """Return the hash of all that decides a feature besides the sample and the adapters' weights.

    Args:
        config: The run's config, as YAML.
        weights: Hash of the backbone's weights.
        device: Where passes are made.
        parts: Backbone, adapter, scenario: whatever else has code of its own that counts.
    """
    facts = {
        "passes": passes_of(config),
        "weights": weights,
        "code": _code(*parts),
        "versions": {p: _version(p) for p in PACKAGES},
        "device": [device.type, _name(device), torch.get_num_threads(), torch.get_float32_matmul_precision()],
    }
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode())


def passes_of(config: str) -> dict[str, Any]:
    """Return what a run's config, as YAML, says of how features are computed.

    >>> passes_of("model: {backbone: b, strategy: EASE}")
    {'backbone': 'b', 'trainer': {'precision': None, 'benchmark': None, 'deterministic': None}}
    """
    told: dict[str, Any] = yaml.safe_load(config)
    trainer = told.get("trainer") or {}
    model = {k: v for k, v in (told.get("model") or {}).items() if k not in ELSEWHERE}
    return {**model, "trainer": {k: trainer.get(k) for k in ("precision", "benchmark", "deterministic")}}


def _joint(hashes: Iterable[str]) -> str:
    return sha256("\0".join(hashes).encode())


def _folder(data: str) -> str:
    return sha256(data.encode())[:32]


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda}"
    return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def _code(*parts: object) -> str:
    """Return a hash of the sources of this package and of those that the parts come from."""
    tops = {__name__.split(".")[0], *(type(part).__module__.split(".")[0] for part in parts)}
    return sources.digest(sources.of((), sorted(tops)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"

"""Features that a run may take from the shared directory: all that determines one is hashed."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

from cl_framework.configuration.experiment import Experiment
from cl_framework.feature_cache.shared_directory import SharedDirectory
from cl_framework.feature_cache.sharing import SharedFeatures, contents_of
from cl_framework.settings import source_hash
from cl_framework.storage.files import sha256
from cl_framework.streams.scenario import Scenario

PACKAGES = ("torch", "torchvision", "timm", "transformers", "peft", "numpy")


_ELSEWHERE = ("strategy", "unlearner", "optimizer", "schedule", "head")
"""Settings of the ``model:`` section that determine no feature, or only through an adapter's weights."""


def shared_features(experiment: Experiment, weights: str, scenario: Scenario, begun: bool) -> SharedFeatures | None:
    """Return the shared features of a run, if its config names a directory.

    Args:
        experiment: The experiment.
        weights: Hash of the backbone's weights.
        scenario: The whole stream.
        begun: Whether it has recorded events. If the directory is gone since, it goes on without.

    Raises:
        UserError: If the directory cannot be written to.
    """
    directory = (
        None if begun and experiment.features and not experiment.features.exists() else shared_directory_of(experiment)
    )
    if directory is None:
        return None
    model, device = experiment.learner.model, experiment.make_trainer(None).strategy.root_device
    key = made_with(experiment.config, weights, device, model.backbone, model.adapters.adapter, experiment.scenario)
    return SharedFeatures(directory, key, contents_of(list(scenario.steps())))


def shared_directory_of(experiment: Experiment) -> SharedDirectory | None:
    """Return the shared directory that a run's config names, if it does.

    Raises:
        UserError: If the directory cannot be written to.
    """
    directory, limit = experiment.features, int(experiment.features_limit * 2**30)
    return None if directory is None else SharedDirectory(directory, limit)


def made_with(config: str, weights: str, device: torch.device, *parts: object) -> str:
    """Return the hash of all that determines a feature besides the sample and the adapters' weights.

    Args:
        config: The run's config, as YAML.
        weights: Hash of the backbone's weights.
        device: Where passes are made.
        parts: Backbone, adapter, scenario: other parts with code of their own.
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
    """Return the settings of a config, as YAML, that features depend on.

    >>> passes_of("model: {backbone: b, strategy: EASE}")
    {'backbone': 'b', 'trainer': {'precision': None, 'benchmark': None, 'deterministic': None}}
    """
    settings: dict[str, Any] = yaml.safe_load(config)
    trainer = settings.get("trainer") or {}
    model = {k: v for k, v in (settings.get("model") or {}).items() if k not in _ELSEWHERE}
    return {**model, "trainer": {k: trainer.get(k) for k in ("precision", "benchmark", "deterministic")}}


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda}"
    return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def _code(*parts: object) -> str:
    """Return a hash of the sources of this package and of those that the parts come from."""
    tops = {__name__.split(".")[0], *(type(part).__module__.split(".")[0] for part in parts)}
    return source_hash.source_digest(source_hash.sources_of((), sorted(tops)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"

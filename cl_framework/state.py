"""A learner as named tensors and a little JSON, without the frozen backbone; and back again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cl_framework import origin
from cl_framework.learner import Learner

FROZEN = "model.backbone."


def tensors(learner: Learner) -> dict[str, Tensor]:
    """Return every tensor that learning may change, by name, on the CPU."""
    return {k: v.detach().cpu() for k, v in learner.state_dict().items() if not k.startswith(FROZEN)}


def facts(learner: Learner) -> dict[str, Any]:
    """Return what is not a tensor: which classes are alive, and the counters that go on."""
    model = learner.model
    return {
        "known": [[c, e] for c, e in model.known.items()],
        "adapters": list(model.adapters),
        "stack": list(model.adapters.stack),
        "origins": {name: origin.to_json(o) for name, o in model.adapters.origins.items()},
        "head_origin": origin.to_json(model.head.origin),
        "outlived": {holder: list(requests) for holder, requests in model.outlived.items()},
        "passes": dict(model.passes),
        "steps": learner.steps,
    }


def restore(learner: Learner, found: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Put a learner into a saved state; it grows adapters, rows and entries as the tensors ask for."""
    frozen = {k: v for k, v in learner.state_dict().items() if k.startswith(FROZEN)}
    learner.load_state_dict({**frozen, **found})
    bank = learner.model.adapters  # files hold tensors in the order of their names, the bank oldest first
    bank.rewrites = nn.ModuleDict({name: bank.rewrites[name] for name in told.get("adapters", list(bank))})
    bank.stack = tuple(told["stack"])
    learner.model.adapters.origins = {name: origin.from_json(o) for name, o in told["origins"].items()}
    learner.model.head.origin = origin.from_json(told["head_origin"])
    learner.model.outlived = told.get("outlived", {})  # older runs do not tell
    learner.model.known = {int(c): str(e) for c, e in told["known"]}
    learner.model.passes = Counter(told["passes"])
    learner.steps = int(told["steps"])
    learner.requires_grad_(False)
    learner.eval()


def size_of(learner: Learner) -> int:
    """Return the bytes that the learner stores beyond the backbone."""
    return sum(v.numel() * v.element_size() for v in tensors(learner).values())

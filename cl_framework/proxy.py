"""Training an adapter by itself: under a head that is thrown away once the adapter is trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cl_framework.head import Head
from cl_framework.model import Model
from cl_framework.strategy import Plan
from cl_framework.stream import Batch, Experience


def tune(model: Model, event: Experience) -> Plan:
    """Return the plan that trains a new adapter, named after ``event``, to tell the classes of ``event`` apart.

    It is trained under a cosine head with a learnable scale, of which nothing is kept (Zhou et al., "Revisiting
    class-incremental learning with pre-trained models", IJCV 2024, Sec. 4.2).
    """
    proxy = Head(model.backbone.width, "cosine", event.classes).to(model.device)
    return under(proxy, event, model.adapters.add(event.name))


def under(proxy: Head, event: Experience, params: Sequence[nn.Parameter]) -> Plan:
    """Return the plan that trains ``params`` of the adapter named after ``event`` under a head of its own."""

    def loss(model: Model, batch: Batch) -> Tensor:
        return cross_entropy(proxy(model.features(batch.x, event.name)), proxy.index(batch.y))

    return Plan(event.data, [*params, *proxy.parameters()], loss)


def tuned(model: Model) -> str | None:
    """Return the oldest adapter that is no edit of a forget request: the one of the first experience, if it has one."""
    return next(iter(model.adapters.learned), None)

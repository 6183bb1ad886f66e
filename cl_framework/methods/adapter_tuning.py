"""Training of an adapter under a temporary head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cl_framework.methods.base import Plan
from cl_framework.methods.competition import proxy_scores
from cl_framework.models.head import Head
from cl_framework.models.model import Model
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Batch


def tune(model: Model, event: Experience, known: Mapping[int, Tensor] | None = None) -> Plan:
    """Return the plan that trains a new adapter, named after ``event``, to tell the classes of ``event`` apart.

    It is trained under a cosine head with a learnable scale, which is discarded (Zhou et al., "Revisiting
    class-incremental learning with pre-trained models", IJCV 2024, Sec. 4.2).

    Args:
        model: To which the adapter is added.
        event: What to train on.
        known: Mean ``(width,)`` of each known class that the new ones are told from as well.
    """
    proxy = Head(model.backbone.width, "cosine", event.classes).to(model.device)
    scores = proxy_scores(proxy, torch.stack(list(known.values()))) if known else proxy
    return under(proxy, event, model.adapters.add(event.name), scores, list(known or ()))


def under(
    proxy: Head,
    event: Experience,
    params: Sequence[nn.Parameter],
    scores: Callable[[Tensor], Tensor] | None = None,
    against: Sequence[int] = (),
) -> Plan:
    """Return the plan that trains ``params`` of the adapter named after ``event`` under a head of its own.

    Args:
        proxy: The head.
        event: What to train on.
        params: Parameters of the adapter that may change.
        scores: Features ``(n, width)`` to scores ``(n, k)``, those of the proxy first; None stands for the proxy alone.
        against: The known classes that the further scores are of.
    """

    def loss(model: Model, batch: Batch) -> Tensor:
        return cross_entropy((scores or proxy)(model.features(batch.x, event.name)), proxy.index(batch.y))

    return Plan(event.data, [*params, *proxy.parameters()], loss, against=against)


def tuned(model: Model) -> str | None:
    """Return the oldest adapter that is no edit of a forget request: the one of the first experience, if it has one."""
    return next(iter(model.adapters.learned), None)

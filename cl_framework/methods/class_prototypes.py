"""Class prototypes before the head, and the distance of features from them.

Zhao et al., "Practical continual forgetting for pre-trained vision models", IEEE TPAMI 2026, Sec. 4 (GS-LoRA++).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_framework.methods.base import Strategy
from cl_framework.methods.losses import columns, divergence
from cl_framework.methods.parameter_importance import batches, open_to_gradients
from cl_framework.methods.unlearning import with_features
from cl_framework.models.model import Model
from cl_framework.streams.samples import Samples


@torch.no_grad()
def prototypes(model: Model, strategy: Strategy, samples: Samples) -> Tensor:
    """Return the mean feature before the head of each class ``(classes, width)``, rows as in ``model.classes``.

    Args:
        model: In its current state: an edit's prototypes are taken before it begins.
        strategy: Decides which adapters a feature passes through.
        samples: With the test transform; classes that have none get a row of zeros.
    """
    total = torch.zeros(len(model.classes), model.head.width, device=model.device, dtype=torch.float64)
    count = torch.zeros(len(model.classes), 1, device=model.device, dtype=torch.float64)
    with open_to_gradients(model, ()):
        for batch in batches(samples, 64, model.device):
            at = columns(model, batch.y)
            total.index_add_(0, at, with_features(model, strategy, batch.x)[0].double())
            count.index_add_(0, at, count.new_ones(len(at), 1))
    return (total / count.clamp_min(1)).float()


def distance(features: Tensor, prototype: Tensor) -> Tensor:
    """Return the mean over samples of ``KL(softmax(p) || softmax(z))``, softmax over the feature dimensions.

    >>> p = torch.tensor([[0.0, 2.0]])
    >>> distance(p, p).item(), distance(-p, p) > 0
    (0.0, tensor(True))
    """
    return divergence(prototype, features)

"""FeCAM: Mahalanobis distance to class means under a covariance of each class, on features that stay as they are.

Goswami et al., "FeCAM: Exploiting the heterogeneity of class distributions in exemplar-free continual learning",
NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.functional import mahalanobis
from cl_framework.memory import Erasure, erase
from cl_framework.methods import Gaussians, Plan, Strategy, tune, tuned
from cl_framework.models import Model
from cl_framework.streams import Experience, Inputs


@final
class FeCAM(Strategy):
    """Scores by a covariance per class on frozen features; choose it when classes spread differently.

    ``-(u - v)^T R_c^-1 (u - v)`` of normalised features and means, ``R_c`` from the covariance of a class (Sec. 3).

    The paper's ViT rows are ``gamma1=1, gamma2=0`` on CIFAR-100 and 10, 10 on ImageNet-R, on a pristine backbone; its
    CNN rows 1, 1 and ``tukey=0.5``. For a ViT its code normalises features before it measures them, not after. PILOT
    tunes first and takes ``gamma1=0, identity=100``: where variances are near 1 that makes every matrix nearly the
    identity, hence this a nearest class mean. (It then takes correlations of that matrix's rows, which are not
    reproduced here.)

    A class that comes again has the mean and covariance of all its samples, and is forgotten exactly by deleting them.
    A request that touches the first experience, which the adapter was trained on, computes the adapter and all of them
    again.

    Args:
        tune: Train an adapter on the first experience, as PILOT does; without, the backbone stays pristine.
        gamma1: Mean variances added to the variances.
        gamma2: Mean covariances added to the covariances.
        identity: Added to the variances, in the units of features.
        tukey: Power that features are raised to, keeping their sign; 1 leaves them as they are.
    """

    isolates, repeats = "class", True
    derived = ("inverse of each class's correlations",)

    def __init__(
        self, tune: bool = False, gamma1: float = 1.0, gamma2: float = 0.0, identity: float = 0.0, tukey: float = 1.0
    ) -> None:
        """Start without classes."""
        super().__init__()
        self.trains_first_only, self.tukey, self.gaussians = tune, tukey, Gaussians()
        self.shrinkage = (gamma1, gamma2, identity)
        self.competes = "new" if tune else None
        self.inverses: dict[int, tuple[Tensor, Tensor]] = {}

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train the adapter if it is to be trained, then compute the missing statistics."""
        if self.trains_first_only and tuned(model) is None:
            erase(Erasure(everything=True), self.gaussians)  # measured with an adapter that was deleted
            yield tune(model, event)
        if missing := self.gaussians.missing(event.classes, event.name):
            z, y = model.embed(event.reference.of(missing), self._space(model) or ())
            self.gaussians.measure(self._powered(z), y, missing, event.name, more=True)

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Return the negative squared distance to every mean."""
        u = normalize(self._powered(model.features(x, self._space(model) or ())), dim=-1)
        v = normalize(self.gaussians.means(model.classes), dim=-1)
        return -mahalanobis(u, v, [self._inverse(c) for c in model.classes])

    def erase(self, erasure: Erasure) -> None:
        """Delete inverses too: each depends on the data of its class."""
        changed = {c for _, c in erasure.cells}
        self.inverses = {c: p for c, p in self.inverses.items() if not (erasure.hits(c) or c in changed)}

    def _inverse(self, cls: int) -> Tensor:
        """Return the inverse of a class's correlations, computed once and kept while the class is unchanged."""
        covariance = self.gaussians.of(cls)[1]
        if cls not in self.inverses or self.inverses[cls][0] is not covariance:
            inverse = torch.linalg.pinv(correlations(covariance.double(), *self.shrinkage), hermitian=True)
            self.inverses[cls] = (covariance, inverse.to(covariance))
        return self.inverses[cls][1]

    def _powered(self, z: Tensor) -> Tensor:
        return z if self.tukey == 1 else z.sign() * z.abs() ** self.tukey

    def _space(self, model: Model) -> str:
        return (tuned(model) or "") if self.trains_first_only else ""


def correlations(covariance: Tensor, gamma1: float, gamma2: float, identity: float = 0.0) -> Tensor:
    """Shrink a covariance ``S`` ``(width, width)`` and return its correlations (Sec. 3.2).

    ``S + (gamma1 v + identity) I + gamma2 w (1 - I)``, with ``v`` the mean of the diagonal and ``w`` that of the rest.
    Where a feature does not vary at all, it correlates with itself only.
    """
    eye = torch.eye(len(covariance), device=covariance.device, dtype=covariance.dtype)
    v, w = ((covariance * mask).sum() / mask.sum().clamp_min(1) for mask in (eye, 1 - eye))
    shrunk = covariance + (gamma1 * v + identity) * eye + gamma2 * w * (1 - eye)
    spread = shrunk.diagonal().clamp_min(0).sqrt()
    scaled = shrunk / (torch.outer(spread, spread) + (torch.outer(spread, spread) == 0))
    return scaled.fill_diagonal_(1.0)

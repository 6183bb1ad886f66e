"""RanPAC: ridge regression on random features, of a backbone tuned on the first experience only.

McDonnell et al., "RanPAC: Random projections and pre-trained models for continual learning", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

from torch import Tensor
from torch.nn.functional import normalize

from cl_framework.functional import RandomFeatures, gcv_ridge, holdout_ridge, ridge_weights
from cl_framework.memory import Key, Sums, TensorStore
from cl_framework.methods import Plan, Strategy, tune, tuned
from cl_framework.models import Model, Using
from cl_framework.streams import Experience, ForgetRequest, Inputs, Samples, seed_for

RIDGES = tuple(10.0**k for k in range(-8, 9))


@final
class RanPAC(Strategy):
    """Ridge regression on random features of a tuned backbone; choose it for accuracy at little training.

    ``relu(z R) (G + ridge I)^-1 Q`` with ``R`` random, ``G`` and ``Q`` sums over all samples so far (Alg. 1).

    ``R`` is standard normal. Forgetting is exact to 1e-6 except for the samples that the adapter was trained on;
    without tuning, for all samples.

    The paper chooses the penalty by the newest experience alone, on a fifth of its samples, and uses it with the sums
    of all (Sec. 4). In double precision 1e-8 then often does about as well as 1e3 on small experiences and wins by
    chance, and where samples are about as many as random features the answers collapse: on Omniglot from 92 to 32 %. So
    the default chooses by generalised cross-validation of the sums, which reads no sample and is the same in any order.

    The best published rows tune scaling of features on ImageNet-R and -A, and `Bottleneck` on CIFAR-100 and CUB.

    Args:
        tune: Train an adapter on the first experience; without, the backbone stays pristine.
        expansion: Number of random features; None means 10,000 for features of width 768 (Sec. 5), in proportion.
        ridge: Weight of the penalty: a number, ``gcv``, or ``published``, which chooses it from 1e-8, 1e-7, ... 1e8 as
            the paper does. Each experience's choice is stored, since the one before counts again where the newest is
            forgotten, and computed again where an experience loses samples: ``Subtract`` reads what is left of it.
        cosine_as_pilot: Score by the cosine of random features and weights, as PILOT's tables do; not in the paper.
        seed: Of the random projection, which belongs to the method and is never stored.
    """

    repeats = True
    derived = ("weights of the ridge regression",)

    def __init__(
        self,
        tune: bool = True,
        expansion: int | None = None,
        ridge: float | Literal["gcv", "published"] = "gcv",
        cosine_as_pilot: bool = False,
        seed: int = 0,
    ) -> None:
        """Start with empty sums."""
        super().__init__()
        self.trains_first_only, self.expansion, self.ridge, self.cosine_as_pilot = (
            tune,
            expansion,
            ridge,
            cosine_as_pilot,
        )
        self.seed, self.sums, self.ridges = seed, Sums(), TensorStore()
        self._projection: RandomFeatures | None = None
        self._solved: tuple[object, Tensor] | None = None
        self.competes = "new" if tune else None

    def learn(self, model: Model, event: Experience) -> Iterable[Plan]:
        """Train the adapter where asked, add the classes that are not in the sums yet, choose the penalty."""
        if self.trains_first_only and tuned(model) is None:
            yield tune(model, event)
        if missing := self.sums.missing(event.classes, event.name):
            self.sums.add(*self._expanded(model, event.reference.of(missing)), event.name)
        if self.ridge == "published" and (own := Key(experience=event.name)) not in self.ridges:
            h, y = self._expanded(model, event.reference)
            self.ridges[own] = holdout_ridge(h, y, RIDGES, seed_for(event.seed_source, model.seed))

    def rereads(self, event: ForgetRequest) -> bool:
        """Besides the tuned experience: what is left of an experience, to choose its penalty again."""
        left = {e.name for e in event.remaining} & set(event.experiences)
        return super().rereads(event) or (self.ridge == "published" and bool(left))

    def subtract(self, model: Model, gone: Samples, experience: str) -> None:
        """Subtract samples from the sums, and delete the penalty that they helped to choose."""
        self.sums.subtract(*self._expanded(model, gone), experience)
        if (chosen := Key(experience=experience)) in self.ridges:
            del self.ridges[chosen]

    def predict(self, model: Model, x: Inputs | Tensor) -> Tensor:
        """Score with the regression solved from the sums."""
        state = (self.sums.version, self.ridges.version, model.classes)
        if self._solved is None or self._solved[0] != state:
            gram, q, n = self.sums.of(model.classes)
            weights = ridge_weights(gram, q, self._penalty(model, gram, q, n))
            self._solved = (state, normalize(weights, dim=0) if self.cosine_as_pilot else weights)
        h = self.random_features(model, model.features(x, self._space(model)))
        return ((normalize(h, dim=-1) if self.cosine_as_pilot else h) @ self._solved[1]).float()

    def _penalty(self, model: Model, gram: Tensor, q: Tensor, n: Tensor) -> float:
        if self.ridge == "published":
            return float(self.ridges[Key(experience=model.experiences[-1])])
        return gcv_ridge(gram, q, n) if self.ridge == "gcv" else float(self.ridge)

    def _expanded(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        z, y = model.embed(samples, self._space(model))
        return self.random_features(model, z), y

    def random_features(self, model: Model, z: Tensor) -> Tensor:
        """Return random features ``(n, expansion)`` of features ``(n, width)``."""
        if self._projection is None:
            size = self.expansion or round(10_000 / 768 * model.backbone.width)
            self._projection = RandomFeatures(size, self.seed)
        return self._projection(z)

    def _space(self, model: Model) -> Using:
        return (tuned(model) or ()) if self.trains_first_only else ()

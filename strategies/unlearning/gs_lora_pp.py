"""GS-LoRA++: GS-LoRA that also moves features away from the prototypes of forgotten classes.

Zhao et al., "Practical continual forgetting for pre-trained vision models", IEEE TPAMI 2026, Sec. 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, final

from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import (
    Average,
    Clamp,
    Grouping,
    Paired,
    Plan,
    Rise,
    SparseDelta,
    Sparsity,
    Strategy,
    Unlearner,
    bounded,
    columns,
    distance,
    prototypes,
    reference_of,
    remove_forgotten,
    retained,
    with_features,
)
from cl_framework.models import Model
from cl_framework.streams import Batch, ForgetRequest, Joined


@final
class GSLoRAPlusPlus(Unlearner):
    """GS-LoRA that also moves features from class means; choose it to change features too. Approximate.

    GS-LoRA's loss ``+ w_f max(0, bound_f - D(z_f, p)) + w_r D(z_r, p)``. Reads the forget set and the retain set.

    D is the divergence of features z from the mean feature p of their class before the head. Prototypes are of the
    model just before this request, on the pictures that are read, under the test transform. The released code averages
    weights as well, but for evaluation only; with ``ema`` the averaged factors are kept.

    Args:
        beta: Weight of forgetting: one, or one for each request in turn. None balances the two gradients instead.
        ratio: Where balanced, the length of forgetting's gradient in that of retaining's.
        bound: Loss at which forgetting ends, in multiples of ln K.
        clamp: ``sample`` bounds every sample; ``batch`` bounds the mean, as released.
        push: ``w_f``, the weight of moving away from prototypes (released: 3e-4 to 0.5, mostly 0.01).
        push_bound: ``bound_f`` in nats (18 as released).
        pull: ``w_r``, the weight of staying at prototypes (released: 0 almost everywhere, against the paper's text).
        alpha: Weight of sparsity; see `GSLoRA`.
        form: ``proximal`` yields true zeros; ``penalty`` is the released form and yields none.
        group: Parameters that are kept or zeroed together: a transformer block, a site, or a matrix.
        warmup: Epochs without sparsity.
        epochs: Passes over the retain set (100 in the paper).
        share: Share of the retain set that is read (0.1 in the paper).
        ema: Decay of the average at the end of each epoch (0.9 released); None keeps the last weights.
        ema_from: First epoch to be averaged (30 or 50 of 100 released).
        pace: Samples of the forget set read with each one of the retain set (1 in the released code).
        lr: Learning rate of AdamW (1e-2 as released).
        keep_rows: Keep scoring forgotten classes, as in the paper, to measure the edit alone.
    """

    acts = "stack"
    needs = frozenset({"forget", "retain"})

    def __init__(
        self,
        beta: float | Sequence[float] | None = None,
        ratio: float = 0.3,
        bound: float = 2.0,
        clamp: Clamp = "sample",
        push: float = 0.01,
        push_bound: float = 18.0,
        pull: float = 0.0,
        alpha: float = 1e-2,
        form: Literal["proximal", "penalty"] = "proximal",
        group: Grouping = "block",
        warmup: int = 0,
        epochs: int = 20,
        share: float = 0.1,
        ema: float | None = None,
        ema_from: int = 0,
        pace: float = 1.0,
        lr: float = 1e-2,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.push, self.push_bound, self.pull, self.ema, self.ema_from = push, push_bound, pull, ema, ema_from
        self.rise, self.sparsity = Rise(beta, ratio, bound, clamp), Sparsity(alpha, form, group, warmup)
        self.epochs, self.share, self.pace, self.lr, self.keep_rows = epochs, share, pace, lr, keep_rows

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse a bound out of reach."""
        return self.rise.objection(model)

    def runs_out(self, model: Model, requests: int) -> str | None:
        """Warn where there are fewer betas than requests."""
        return self.rise.runs_out(model, requests)

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Take prototypes, train a new delta on pairs, then remove the classes."""
        stays, raised = retained(event, self.share), self.rise.begin(model)
        pairs = Paired(stays, event.data, self.pace)
        home = prototypes(model, strategy, Joined([event.reference, reference_of(event, stays)]))
        delta = SparseDelta(model, event.name, self.sparsity, len(pairs), self.lr)

        def loss(model: Model, batch: Batch) -> Tensor:
            y, gone = columns(model, batch.y), pairs.gone(batch)
            delta.saw(int((~gone).sum()))
            z, scores = with_features(model, strategy, batch.x)
            entropies = cross_entropy(scores, y, reduction="none")
            away = bounded(distance(z[gone], home[y[gone]]), self.push_bound, "batch")
            near = distance(z[~gone], home[y[~gone]])
            bent = raised(entropies[~gone], entropies[gone], delta.params)
            return bent + self.push * away + self.pull * near + delta.penalty()

        average = Average(delta, self.ema, self.ema_from)
        yield Plan(pairs, delta.params, loss, self.epochs, delta.adamw, after_step=average.step)
        average.put()
        remove_forgotten(model, strategy, event, self.keep_rows)

    def notes(self, model: Model, event: ForgetRequest) -> dict[str, float]:
        """Return the share of groups that the request left at zero."""
        return self.sparsity.notes(model.adapters, event.name)

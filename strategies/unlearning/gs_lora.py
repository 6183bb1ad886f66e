"""GS-LoRA: a group-sparse update trained to forget the forget set and keep the retain set.

Zhao et al., "Continual forgetting for pre-trained vision models", CVPR 2024, Sec. 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, final

from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.methods import (
    Clamp,
    Grouping,
    Paired,
    Plan,
    Rise,
    SparseDelta,
    Sparsity,
    Strategy,
    Unlearner,
    columns,
    remove_forgotten,
    retained,
)
from cl_framework.models import Model
from cl_framework.streams import Batch, ForgetRequest


@final
class GSLoRA(Unlearner):
    """Trains a sparse update that unlearns classes; choose it for repeated requests. Approximate.

    ``CE_r + beta max(0, bound - CE_f) + alpha sum_g ||g||``. Reads the forget set and the retain set.

    Each request adds one delta of the model's own adapter family, named after the request, and trains nothing else:
    ``model.adapters.drop(name)`` removes it, `group_sparsity.zero_ratio` is the share of groups it left at zero. The
    paper's delta is LoRA of rank 8 on both maps of every MLP (``configs/adapter/lora_mlp.yaml``), trained for 100
    epochs by AdamW (1e-2, weight decay 0.05).

    Args:
        beta: Weight of forgetting: one, or one for each request in turn (released: 0.2, 0.25, 0.25, 0.2). None balances
            the two gradients instead.
        ratio: Where balanced, the length of forgetting's gradient in that of retaining's.
        bound: Loss at which forgetting ends, in multiples of ln K, the loss of a guess among all K classes. The
            released 105 nats are made for a cosine head with sigma 64 and bound nothing under a linear head.
        clamp: ``sample`` bounds every sample, so that no sample's loss makes up for another's; ``batch`` bounds the
            mean, as released.
        alpha: Weight of sparsity. Released: 1e-2 after 20 epochs, or 1e-4 throughout, in the penalty form, where AdamW
            amplifies it. In the proximal form that is next to nothing, and the edit is dense: there it counts against
            ``sqrt(parameters of a group)``, as `group_sparsity.Sparsity` explains, and needs a ``beta`` set by hand.
        form: ``proximal`` yields true zeros; ``penalty`` is the released form and yields none.
        group: Parameters that are kept or zeroed together: a transformer block, a site, or a matrix.
        warmup: Epochs without sparsity.
        epochs: Passes over the retain set.
        share: Share of the retain set that is read (0.1 in the paper).
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
        alpha: float = 1e-2,
        form: Literal["proximal", "penalty"] = "proximal",
        group: Grouping = "block",
        warmup: int = 0,
        epochs: int = 20,
        share: float = 0.1,
        pace: float = 1.0,
        lr: float = 1e-2,
        keep_rows: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.rise, self.sparsity = Rise(beta, ratio, bound, clamp), Sparsity(alpha, form, group, warmup)
        self.epochs, self.share, self.pace, self.lr, self.keep_rows = epochs, share, pace, lr, keep_rows

    def objection(self, model: Model, strategy: Strategy, event: ForgetRequest) -> str | None:
        """Refuse a bound out of reach."""
        return self.rise.objection(model)

    def runs_out(self, model: Model, requests: int) -> str | None:
        """Warn where there are fewer betas than requests."""
        return self.rise.runs_out(model, requests)

    def forget(self, model: Model, strategy: Strategy, event: ForgetRequest) -> Iterable[Plan]:
        """Train a new delta on pairs, then remove the classes."""
        pairs, raised = Paired(retained(event, self.share), event.data, self.pace), self.rise.begin(model)
        delta = SparseDelta(model, event.name, self.sparsity, len(pairs), self.lr)

        def loss(model: Model, batch: Batch) -> Tensor:
            y, gone = columns(model, batch.y), pairs.gone(batch)
            delta.saw(int((~gone).sum()))
            entropies = cross_entropy(strategy.predict(model, batch.x), y, reduction="none")
            return raised(entropies[~gone], entropies[gone], delta.params) + delta.penalty()

        yield Plan(pairs, delta.params, loss, self.epochs, delta.adamw)
        remove_forgotten(model, strategy, event, self.keep_rows)

    def notes(self, model: Model, event: ForgetRequest) -> dict[str, float]:
        """Return the share of groups that the request left at zero."""
        return self.sparsity.notes(model.adapters, event.name)

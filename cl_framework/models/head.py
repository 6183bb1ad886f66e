"""Classification heads with one row per class, which grow and shrink with the classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from cl_framework.errors import UserError
from cl_framework.memory.erasure import Erasure
from cl_framework.memory.provenance import ReadSamples
from cl_framework.streams.origins import Origin


@final
class Head(nn.Module):
    """Scores features against one row per class.

    ``linear``: ``w_c . z + b_c``, rows from a normal distribution with standard deviation 0.02, biases 0.
    ``cosine``: ``sigma cos(w_c, z)``, rows uniform within ``1 / sqrt(width)``, a learnable ``sigma`` that starts at 1.

    Attributes:
        classes: Ids of the classes, in the order of the rows.
        origin: Origin of the rows.
        reading: Samples they were trained on, where not all of a class were read.
    """

    def __init__(self, width: int, kind: Literal["linear", "cosine"] = "linear", classes: Iterable[int] = ()) -> None:
        """Start with rows for ``classes``, none unless given."""
        super().__init__()
        self.width, self.kind = width, kind
        self.origin: Origin = ()
        self.reading = ReadSamples()
        self.weight = nn.Parameter(torch.empty(0, width))
        self.bias = nn.Parameter(torch.empty(0)) if kind == "linear" else None
        self.sigma = nn.Parameter(torch.ones(())) if kind == "cosine" else None
        self.register_buffer("rows", torch.empty(0, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(self._resize)  # type: ignore[no-untyped-call]
        self.grow(classes)

    @property
    def classes(self) -> tuple[int, ...]:
        """Ids of the classes, in the order of the rows."""
        return tuple(self.get_buffer("rows").tolist())

    def grow(self, classes: Iterable[int]) -> None:
        """Add a row for each class that has none; existing rows are unchanged."""
        known = set(self.classes)
        new = [c for c in dict.fromkeys(classes) if c not in known]
        if not new:
            return
        fresh = torch.empty(len(new), self.width)
        if self.kind == "linear":
            nn.init.trunc_normal_(fresh, std=0.02)
        else:
            nn.init.uniform_(fresh, -(self.width**-0.5), self.width**-0.5)
        self._keep(torch.arange(len(known)), fresh.to(self.weight.device), new)

    def fits(self, rows: Mapping[int, int], classifier: Mapping[str, Tensor]) -> None:
        """Require that rows of a pre-trained classifier can be copied.

        Raises:
            UserError: If it scores in another way than this head, or has too few rows.
        """
        kind = "cosine" if "sigma" in classifier else "linear"
        if kind != self.kind:
            raise UserError(f"The pre-trained classifier is {kind} and the head {self.kind}; set `model.head: {kind}`.")
        if (last := max(rows.values())) >= (held := len(classifier["weight"])):
            raise UserError(f"The pre-trained classifier has {held} rows and row {last} was asked for.")

    @torch.no_grad()
    def adopt(self, rows: Mapping[int, int], classifier: Mapping[str, Tensor]) -> None:
        """Copy the rows of a classifier that `fits`: ``rows`` tells which one each class id has there."""
        at, take = [self.classes.index(c) for c in rows], list(rows.values())
        self.weight[at] = classifier["weight"][take].to(self.weight)
        if self.bias is not None:
            self.bias[at] = classifier["bias"][take].to(self.bias)
        if self.sigma is not None:
            self.sigma.copy_(classifier["sigma"])

    def erase(self, erasure: Erasure) -> None:
        """Delete the rows of erased classes."""
        keep = [i for i, c in enumerate(self.classes) if not erasure.hits(c)]
        if len(keep) < len(self.classes):
            self._keep(torch.tensor(keep, dtype=torch.int64), self.weight.new_empty(0, self.width), [])
        if erasure.everything:
            self.origin = ()
            if self.sigma is not None:
                nn.init.ones_(self.sigma)

    def index(self, labels: Tensor) -> Tensor:
        """Map class ids ``(n,)`` to row numbers ``(n,)``.

        Raises:
            KeyError: If a label has no row.
        """
        match = labels[:, None] == self.get_buffer("rows").to(labels.device)
        if not bool(match.any(1).all()):
            unknown = sorted(set(labels[~match.any(1)].tolist()))
            raise KeyError(f"Classes {unknown} have no row in the head; it holds {self.classes}.")
        return match.int().argmax(1)

    def forward(self, z: Tensor) -> Tensor:
        """Return scores ``(n, classes)`` of features ``(n, width)``."""
        if self.sigma is None:
            return linear(z, self.weight, self.bias)
        return self.sigma * normalize(z, dim=-1) @ normalize(self.weight, dim=-1).T

    def cosines(self, z: Tensor) -> Tensor:
        """Return ``cos(w_c, z)`` ``(n, classes)``, without scale and bias."""
        scores: Tensor = self(z)
        if self.sigma is not None:
            return scores / self.sigma
        lengths: Tensor = z.norm(dim=-1, keepdim=True) * self.weight.norm(dim=-1)
        return (scores if self.bias is None else scores - self.bias) / lengths.clamp_min(1e-12)

    def _keep(self, rows: Tensor, fresh: Tensor, new: list[int]) -> None:
        """Replace the parameters by some of their rows followed by new ones."""
        at = rows.to(self.weight.device)
        self.weight = nn.Parameter(torch.cat([self.weight.detach()[at], fresh]))
        if self.bias is not None:
            self.bias = nn.Parameter(torch.cat([self.bias.detach()[at], fresh.new_zeros(len(new))]))
        kept = self.get_buffer("rows")[at]
        self.register_buffer("rows", torch.cat([kept, torch.tensor(new, dtype=torch.int64, device=kept.device)]))

    def _resize(self, _: nn.Module, state: Mapping[str, Any], prefix: str, *__: object) -> None:
        """Create the rows of the weights to be loaded."""
        if f"{prefix}weight" not in state:
            return
        self.weight = nn.Parameter(torch.empty_like(state[f"{prefix}weight"]))
        if self.bias is not None:
            self.bias = nn.Parameter(torch.empty_like(state[f"{prefix}bias"]))
        self.register_buffer("rows", torch.empty_like(state[f"{prefix}rows"]))

"""A frozen backbone, its adapters and a head: everything a strategy may touch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.base import Adapter
from cl_framework.backbones.base import Backbone
from cl_framework.feature_cache.store import FeatureStore
from cl_framework.memory.erasure import Erasure
from cl_framework.models.frozen_passes import FrozenPasses, by_length
from cl_framework.models.head import Head
from cl_framework.streams import origins
from cl_framework.streams.events import Experience
from cl_framework.streams.lazy_inputs import Inputs, inputs
from cl_framework.streams.samples import Samples

ADAPTERS = "model.adapters.rewrites."
"""How the names of an adapter's tensors begin in the learner's state; its own name follows."""

Using: TypeAlias = str | Sequence[str] | None


@final
class Model(nn.Module):
    """What a strategy acts on. Knows nothing of Lightning, tasks to come, or test data.

    Attributes:
        known: The experience each live class came with first, in order of arrival.
        brought: The live classes of each experience, in order of arrival; a class may have come again.
        frozen: How features are computed without gradients.
        store: Which of them are known already.
        seed: The run's seed, from which the seed of each experience is derived.
        exit: Identity on the features of every tensor that a strategy scores, for hooks.
        passes: Images sent through the backbone so far, by phase (train, statistics, evaluate).
    """

    def __init__(self, backbone: Backbone, adapter: Adapter, head: Literal["linear", "cosine"] = "linear") -> None:
        """Assemble the parts."""
        super().__init__()
        self.backbone = backbone
        self.adapters = AdapterBank(backbone, adapter)
        self.head = Head(backbone.width, head)
        self.store = FeatureStore()
        self.frozen = FrozenPasses(backbone, self.adapters, self._count)
        self.exit = nn.Identity()
        self.known: dict[int, str] = {}
        self.brought: dict[str, tuple[int, ...]] = {}
        self.seed = 0
        self.passes: Counter[str] = Counter()
        self._outlived: dict[str, tuple[str, ...]] = {}
        self.phase: Literal["train", "statistics", "evaluate"] = "statistics"

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes alive now, in order of arrival: the columns of every prediction."""
        return tuple(self.known)

    @property
    def experiences(self) -> tuple[str, ...]:
        """Experiences with a live class, in order of arrival."""
        return tuple(self.brought)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    @property
    def outlived(self) -> dict[str, tuple[str, ...]]:
        """Names of forget requests for samples that state still depends on.

        By state: a tensor of the learner's state, or a prefix of several names.
        """
        adapters = {ADAPTERS + name: requests for name, requests in self.adapters.outlived.items() if requests}
        return {**self._outlived, **adapters}

    @outlived.setter
    def outlived(self, requests_by_holder: Mapping[str, Sequence[str]]) -> None:
        """Restore the requests from a state."""
        holders = {holder: tuple(requests) for holder, requests in requests_by_holder.items()}
        self._outlived = {holder: r for holder, r in holders.items() if not holder.startswith(ADAPTERS)}
        names = {holder.removeprefix(ADAPTERS): r for holder, r in holders.items() if holder.startswith(ADAPTERS)}
        self.adapters.outlived = names

    def meet(self, event: Experience) -> None:
        """Register the classes of an experience."""
        self.know(event.name, event.classes)

    def know(self, experience: str, classes: Sequence[int]) -> None:
        """Register classes of an experience; known ones keep their place in the order of arrival."""
        self.known |= {c: experience for c in classes if c not in self.known}
        if all_ := tuple(dict.fromkeys((*self.brought.get(experience, ()), *classes))):
            self.brought[experience] = all_

    def retain(self, left: Iterable[Experience]) -> None:
        """Register what is left of every experience, in the order of a stream of that alone."""
        self.known, self.brought = {}, {}
        for experience in left:
            self.meet(experience)

    def inherit(self, event: Experience, classifier: Mapping[str, Tensor]) -> None:
        """Register classes of the backbone's own classifier: its rows, under an adapter that changes nothing."""
        self.ready("shared", event.classes)
        self.meet(event)
        self.head.adopt(event.inherited, classifier)

    def erase(self, erasure: Erasure) -> None:
        """Delete erased classes, and experiences without live classes.

        Other classes keep their place, even if the experience that brought them first is deleted: rows of a head are in
        that order.
        """
        kept = {e: tuple(c for c in classes if not erasure.hits(c, e)) for e, classes in self.brought.items()}
        self.brought = {e: classes for e, classes in kept.items() if classes}
        first = {c: e for e, c in reversed(origins.cells_of(self.brought))}
        self.known = {c: first[c] for c in self.known if c in first}

    def ready(self, adapter: str, classes: Iterable[int]) -> list[nn.Parameter]:
        """Activate ``adapter`` (created if new), give ``classes`` head rows, and return what to train."""
        if adapter not in self.adapters:
            self.adapters.add(adapter)
        self.adapters.active = (adapter,)
        self.head.grow(classes)
        self.head.to(self.device)
        return [*self.adapters.params(adapter), *self.head.parameters()]

    def query(self, x: Tensor | Inputs) -> Tensor:
        """Return the pristine backbone's features ``(n, width)``, which selects prompts; without gradients."""
        with torch.no_grad(), self.adapters.pristine():
            return self.features(x)

    def features(self, x: Tensor | Inputs, using: Using = None, query: Tensor | None = None) -> Tensor:
        """Return features ``(n, width)`` under the adapters ``using``: one, several, ``()`` for none, None as they are.

        A tensor is a training pass, with gradients. ``Inputs`` are a frozen pass, read from the store where known.
        Adapters that ask for the query cost a second pass, unless the ``query`` of a tensor is given.
        """
        names = self.adapters.active if using is None else (using,) if isinstance(using, str) else tuple(using)
        with self.adapters.using(*names):
            if isinstance(x, Inputs):
                return self.frozen.one(x, self.store)
            if query is None and self.adapters.asking:
                query = self.query(x)
            self._count(len(x))
            z: Tensor = self.exit(self._pass(x, query))
            return z

    def each(self, x: Tensor | Inputs, usings: Sequence[str | Sequence[str]], wanted: Tensor | None = None) -> Tensor:
        """Return features ``(k, n, width)`` under each of ``k`` choices of adapters, as `features` takes them.

        Frozen passes hold several adapters at once where their kind allows it: layers before the first rewritten site
        are computed once, and features equal those of separate passes, bit for bit.

        Args:
            x: Inputs.
            usings: The choices.
            wanted: ``(k, n)`` bool, the features to compute; the others are zero. None means all.
        """
        wanted = torch.ones(len(usings), len(x), dtype=torch.bool) if wanted is None else wanted.cpu()
        chosen = [(using,) if isinstance(using, str) else tuple(using) for using in usings]
        if isinstance(x, Inputs):
            stack = self.adapters.stack
            return self.frozen(x, [(*c, *(n for n in stack if n not in c)) for c in chosen], wanted, self.store)
        out = torch.zeros(len(usings), len(x), self.backbone.width, device=self.device)
        for i, using in enumerate(chosen):
            if bool(wanted[i].any()):
                rows = wanted[i].nonzero()[:, 0].to(x.device)
                out[i, rows] = self.features(x[rows], using).to(out.dtype)
        return out

    def _pass(self, x: Tensor, query: Tensor | None) -> Tensor:
        """Pass ``x`` through the backbone, inputs of one length at a time, so that a long one slows no others."""
        rows, pieces = by_length(self.backbone, x), []
        if len(rows) == 1 or self.adapters.adapter.coupled:
            with self.adapters.hooks.asked(query):
                z: Tensor = self.backbone(x)
            return z
        for r in (r.to(x.device) for r in rows):
            with self.adapters.hooks.asked(None if query is None else query[r]):
                pieces.append(self.backbone(x[r]))
        return torch.cat(pieces)[torch.cat(rows).argsort().to(x.device)]

    def scores(self, x: Tensor | Inputs, using: Using = None) -> Tensor:
        """Return the head's scores ``(n, rows)`` under the adapters ``using``, as `features` takes them."""
        scores: Tensor = self.head(self.features(x, using))
        return scores

    def forward(self, x: Tensor | Inputs) -> Tensor:
        """Return the head's scores ``(n, rows)`` under the active adapters."""
        return self.scores(x)

    def embed(self, samples: Samples, using: Using = None, batch: int = 256) -> tuple[Tensor, Tensor]:
        """Return features ``(n, width)`` and labels ``(n,)`` of samples with the test transform, in order."""
        pieces = [self.features(x, using) for x in inputs(samples.on(self.device), batch)]
        return torch.cat(pieces), samples.labels.to(self.device)

    def embed_each(
        self, samples: Samples, usings: Sequence[str | Sequence[str]], batch: int = 256
    ) -> tuple[Tensor, Tensor]:
        """Return features ``(k, n, width)`` under each of ``k`` choices of adapters, and labels ``(n,)``."""
        pieces = [self.each(x, usings) for x in inputs(samples.on(self.device), batch)]
        return torch.cat(pieces, 1), samples.labels.to(self.device)

    def digests(self, names: Iterable[str]) -> list[str]:
        """Return a hash of each named adapter's weights."""
        return self.frozen.digests(names)

    def _count(self, images: int) -> None:
        self.passes[self.phase] += images

"""EASE in a deliberately plain loop, the way its released code goes about it, to compare speed with in one process.

What is learned is the same: adapters, throw-away heads, epochs, batches, optimiser, schedule, score (Zhou et al.,
CVPR 2024). How is not: every picture is decoded and varied by itself with Pillow each time it is read; the new classes'
pictures are read again for every subspace; after each task every test picture seen so far is read again and passed
through every adapter, one by one, in full; nothing is remembered, attention is spelled out, all is single precision.
One thing is kinder than released: missing prototypes are completed class by class rather than by loops over pairs of
classes. ``shared`` adds another: the embedding of patches is then shared by the adapters of a test batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.configuration.experiment import Experiment
from cl_framework.errors import UserError
from scenarios.class_incremental import ClassIncremental
from scenarios.data.source import Pictures
from scripts.phases import DATA, Stopwatch, report
from scripts.plain_pictures import OneAtATime, one_by_one
from strategies.learning.ease import EASE


@final
class PlainEase:
    """The loop and what it has learned so far.

    Args:
        experiment: Whose backbone, data and settings it takes; that learner is of no use afterwards.
        workers: Processes that read pictures.
        shared: Embed the patches of a test batch once for all adapters. In a ViT-B that saves next to nothing; in the
            embedded backbone, whose stem is convolutional, a quarter.
        watch: Times the phases.

    Raises:
        UserError: If the experiment is no EASE with bottlenecks on a class-incremental stream.
    """

    def __init__(
        self, experiment: Experiment, workers: int = 0, shared: bool = False, watch: Stopwatch | None = None
    ) -> None:
        """Take over the backbone, rid of hooks and fused attention."""
        learner, stream = experiment.learner, experiment.scenario
        spec, strategy = learner.model.adapters.adapter, learner.strategy
        body: Any = getattr(learner.model.backbone, "body", None)
        if not (
            isinstance(strategy, EASE)
            and isinstance(spec, Bottleneck)
            and isinstance(stream, ClassIncremental)
            and isinstance(stream.source.train, Pictures)
            and hasattr(body, "blocks")
        ):
            raise UserError("The plain loop is EASE with Bottleneck on a timm ViT and a ClassIncremental of pictures.")
        trainer = experiment.make_trainer(None)
        self.device = trainer.strategy.root_device
        self.epochs, self.batch_size = trainer.max_epochs or 1, experiment.batch_size
        self.workers, self.shared = workers, shared
        self.make_optimizer, self.alpha, self.seed = learner.optimizer, float(strategy.alpha), experiment.seed
        self.spec, self.stream, self.width = spec, stream, learner.model.backbone.width
        self.body: Any = body.to(self.device)
        for module in self.body.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        self.adapters: list[nn.ModuleList] = []
        self.prototypes: dict[tuple[int, int], Tensor] = {}
        self.owner: dict[int, int] = {}
        self.watch, self.passes = watch or Stopwatch(), dict.fromkeys((DATA, "train", "prototypes", "evaluation"), 0)

    def run(self) -> dict[str, Any]:
        """Learn every task, examine after each, and return what `phases.report` does."""
        curve = self.watch("other", lambda: [self.task(t, c) for t, c in enumerate(self.stream.groups())])()
        return report(self.watch, self.passes, curve)

    def task(self, task: int, classes: Sequence[int]) -> float:
        """Learn one task and return the accuracy over all so far."""
        torch.manual_seed(self.seed + task)
        self.owner |= dict.fromkeys(classes, task)
        self.watch("train", self.train)(classes)
        self.watch("prototypes", self.measure)(classes)
        return self.watch("evaluation", self.examine)()

    def train(self, classes: Sequence[int]) -> None:
        """Train a fresh adapter under a cosine head of its own, which is thrown away."""
        adapter = nn.ModuleList(Branch(self.width, self.spec) for _ in self.body.blocks).to(self.device)
        bound = self.width**-0.5
        weight = nn.Parameter(torch.empty(len(classes), self.width).uniform_(-bound, bound).to(self.device))
        sigma = nn.Parameter(torch.ones((), device=self.device))
        optimizer = self.make_optimizer([*adapter.parameters(), weight, sigma])
        schedule = CosineAnnealingLR(optimizer, self.epochs)
        rows = torch.full((max(classes) + 1,), -1)
        rows[list(classes)] = torch.arange(len(classes))
        for _ in range(self.epochs):
            for x, y in self.read("train", classes, vary=True):
                z = self.features(self.tokens(x), adapter)
                logits = sigma * normalize(z, dim=-1) @ normalize(weight, dim=-1).T
                loss = cross_entropy(logits, rows[y].to(self.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                loss.item()  # summed up for a log
                self.passes["train"] += len(y)
            schedule.step()
        self.adapters.append(adapter.eval().requires_grad_(False))

    @torch.no_grad()
    def measure(self, classes: Sequence[int]) -> None:
        """Take the mean of each new class in every subspace, reading the pictures again for each."""
        for s, adapter in enumerate(self.adapters):
            found = [(self.features(self.tokens(x), adapter).cpu(), y) for x, y in self.read("train", classes)]
            z, y = (torch.cat(column) for column in zip(*found, strict=True))
            self.passes["prototypes"] += len(y)
            for c in classes:
                self.prototypes[c, s] = z[y == c].mean(0)
        for c, t in self.owner.items():
            for s in range(t + 1, len(self.adapters)):
                others = [k for k, owner in self.owner.items() if owner >= s]
                mine = self.prototypes[c, t]
                likeness = cosine_similarity(mine, torch.stack([self.prototypes[k, t] for k in others]))
                there = torch.stack([self.prototypes[k, s] for k in others])
                self.prototypes[c, s] = likeness.softmax(0) @ there

    @torch.no_grad()
    def examine(self) -> float:
        """Return the accuracy over all test pictures seen so far, each passed through every adapter."""
        classes, last = list(self.owner), max(len(self.adapters) - 1, 1)
        right = total = 0
        for x, y in self.read("test", classes):
            tokens, scores = self.tokens(x) if self.shared else None, torch.zeros(len(y), len(classes))
            for s, adapter in enumerate(self.adapters):
                z = self.features(self.tokens(x) if tokens is None else tokens, adapter).cpu()
                there = torch.stack([self.prototypes[c, s] for c in classes])
                factor = torch.tensor([1.0 if self.owner[c] == s else self.alpha / last for c in classes])
                scores += factor * (normalize(z, dim=-1) @ normalize(there, dim=-1).T)
            self.passes["evaluation"] += len(y) * len(self.adapters)
            right += int((torch.tensor(classes)[scores.argmax(1)] == y).sum())
            total += len(y)
        return right / total

    def tokens(self, x: Tensor) -> Tensor:
        """Return what the first block is given ``(n, tokens, width)``."""
        found: Tensor = self.body.norm_pre(self.body._pos_embed(self.body.patch_embed(x.to(self.device))))
        return found

    def features(self, h: Tensor, adapter: nn.ModuleList) -> Tensor:
        """Return features ``(n, width)`` under one adapter."""
        for block, branch in zip(self.body.blocks, adapter, strict=True):
            h = h + block.ls1(block.attn(block.norm1(h)))
            h = h + block.ls2(block.mlp(block.norm2(h))) + branch(h)
        found: Tensor = self.body.forward_head(self.body.norm(h), pre_logits=True)
        return found

    def read(self, split: str, classes: Sequence[int], vary: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of pictures ``(n, 3, S, S)`` and labels; with ``vary`` shuffled and augmented."""
        pictures = OneAtATime(getattr(self.stream.source, split), classes, one_by_one(self.stream.how, vary))
        batches = iter(DataLoader(pictures, self.batch_size, shuffle=vary, num_workers=self.workers))
        following = self.watch(DATA, lambda: next(batches, None))
        while (batch := following()) is not None:
            self.passes[DATA] += len(batch[1])
            yield batch


@final
class Branch(nn.Module):
    """The AdaptFormer branch of one block: ``scale * up(drop(relu(down(h))))``; ``up`` starts at zero."""

    def __init__(self, width: int, spec: Bottleneck) -> None:
        """Draw ``down`` as torch does."""
        super().__init__()
        self.down, self.up = nn.Linear(width, spec.width), nn.Linear(spec.width, width)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)
        self.scale, self.drop = spec.scale, nn.Dropout(spec.dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Return what joins the residual."""
        found: Tensor = self.scale * self.up(self.drop(self.down(h).relu()))
        return found

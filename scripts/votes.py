"""What moves L2P's released figures: over which samples prompts are voted for at test time, or where prompts start.

    python scripts/votes.py imagefolder:PATH        # PATH as for configs/compare/omniglot.yaml

Every order of classes is learned with both starts. Training votes over its batches either way, so each learner is then
examined three times: by votes over 16 samples in the order of classes, as released, over 64 in the order of the data,
and over 16 in a random order, where a batch tells nothing. Prints accuracy on all classes so far, mean and last.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import fmean

import cl_framework.threads  # noqa: F401  # before torch

import torch
from rich.console import Console
from torch import Tensor

from cl_framework.configuration.experiment import build
from cl_framework.engine import loop
from cl_framework.engine.learner import Learner
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Joined, Samples, Subset

SEEDS = (1993, 1994, 1995)
STARTS = ("uniform", "class_position_as_released")
SETTINGS = (
    *("--model.backbone", "GlyphViT", "--model.strategy", "L2P", "--model.schedule", "constant"),
    *("--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr", "0.001875"),
    *("--model.optimizer.weight_decay", "0.0"),  # else that of the default optimiser goes on
    *("--data.batch_size", "16", "--data.scenario", "ClassIncremental", "--data.scenario.increment", "12"),
    *("--trainer.max_epochs", "3", "--trainer.precision", "bf16-mixed", "--model.adapter", "PromptPool"),
    *("--model.adapter.choice", "batch_by_class_as_released"),
)


def accuracy(learner: Learner, exam: Samples, together: int | None) -> float:
    """Return the share of right answers where so many samples vote, in the order of classes; None: as they come."""
    pool = learner.model.adapters.adapter
    pool.together, kept = together, pool.together
    right = learner.answer(exam) == exam.labels
    pool.together = kept
    return float(right.float().mean())


def shuffled(learner: Learner, exam: Samples, size: int = 16) -> float:
    """Return the same where the voting samples were put together at random."""
    order = torch.randperm(len(exam), generator=torch.Generator().manual_seed(0))
    said: list[Tensor] = [learner.answer(Subset(exam, rows)) for rows in torch.split(order, size)]
    return float((torch.cat(said) == exam.labels[order]).float().mean())


def measure(data: str, seed: int, start: str) -> dict[str, list[float]]:
    """Learn a stream and return accuracies after each experience, by who votes."""
    order = ("--data.scenario.dataset", data, "--data.scenario.order_seed", str(seed), "--seed_everything", str(seed))
    experiment = build([*SETTINGS, *order, "--model.adapter.start", start], Console(stderr=True))
    learner, exams = experiment.learner, list[Samples]()
    found: dict[str, list[float]] = {"16 by class": [], "64 as they come": [], "16 at random": []}
    for step in experiment.scenario.steps():
        assert isinstance(step.event, Experience)
        loop.carry_out(learner, step.event, experiment.make_trainer, experiment.batch_size)
        exams.append(step.exam)
        exam = Joined(exams)
        for who, share in zip(
            found, (accuracy(learner, exam, 16), accuracy(learner, exam, None), shuffled(learner, exam)), strict=True
        ):
            found[who].append(100 * share)
    return found


def main(argv: Sequence[str]) -> int:
    """Measure every order and start."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    for seed in SEEDS:
        for start in STARTS:
            for who, curve in measure(argv[0], seed, start).items():
                said = f"mean {fmean(curve):.1f}, last {curve[-1]:.1f} ({' '.join(f'{a:.0f}' for a in curve)})"
                print(f"order {seed}, start {start}, votes of {who}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Time one training step and one frozen pass computed in each way of ``model.compute``, as ratios within one process.

    python scripts/bench_compute.py --config configs/quickstart.yaml --model.backbone.class_path GlyphViT

Arguments are those of `clf run`, after ``--ways`` for some ways only and ``--repeats``. The first batch of the stream's
first experience is trained on with one adapter and a fresh optimiser, over and over, and the best time counts. Ways
take turns, so that a busy machine is no different for one of them. ``kept`` is what the graph keeps for its backward
pass besides weights, in MB: the memory that grows with the batch (of blocks computed again, without the one under way).
``whole graph`` is what the frozen front saves: there the input asks for a gradient, as if something before the first
site were trained. The first calls, which compile where that is asked for, have a column of their own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import cl_framework.threads  # noqa: F401  # before torch

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_framework.configuration.experiment import MIXED, Experiment, build
from cl_framework.streams.events import Experience
from cl_framework.streams.lazy_inputs import Inputs
from scripts.cells import guarded
from scripts.variants import VARIANTS

COMPUTED = ("plain attention", "fused attention", "checkpointed blocks", "fused optimiser", "bf16", "compiled")
WAYS: dict[str, Sequence[str]] = {
    "as ever": (),
    "whole graph": (),
    **{name: VARIANTS[name].overrides for name in COMPUTED},
}


def made(way: str, args: Sequence[str]) -> tuple[Callable[[], None], Callable[[], None], dict[str, float]]:
    """Build the experiment in one way and return a training step, a frozen pass, and what the first of them took."""
    experiment: Experiment = build([*args, *WAYS[way]], Console(quiet=True))
    learner = experiment.learner
    trainer = experiment.make_trainer(None)
    learner.to(trainer.strategy.root_device)
    model, mixed = learner.model, MIXED.get(str(trainer.precision))
    event = next(s.event for s in experiment.scenario.steps() if isinstance(s.event, Experience))
    x, y, ids = (t.to(model.device) for t in event.data[range(min(experiment.batch_size, len(event.data)))])
    params = model.ready("shared", event.classes)
    for p in params:
        p.requires_grad_(True)
    optimizer = learner.optimizer(params)
    learner.compute.fuse(optimizer)
    rows = model.head.index(y)
    if way == "whole graph":
        x = x.clone().requires_grad_(True)

    def step() -> None:
        model.train()
        with torch.autocast(model.device.type, mixed, enabled=mixed is not None):
            loss = cross_entropy(model.head(model.features(x, "shared")), rows)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def frozen() -> None:
        model.eval()
        model.features(Inputs(lambda: x.detach(), ids), "shared")

    began = time.perf_counter()
    step()
    frozen()
    first = time.perf_counter() - began
    kept = megabytes(step, {p.untyped_storage().data_ptr() for p in (*learner.parameters(), *learner.buffers())})
    return step, frozen, {"kept": kept, "first": first}


def seconds(call: Callable[[], None]) -> float:
    """Return how long a call takes, on the device too."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def megabytes(step: Callable[[], None], besides: set[int]) -> float:
    """Return what graphs keep during a step for their backward passes, each storage once, weights left out."""
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        store = t.untyped_storage()
        if store.data_ptr() not in besides:
            found[store.data_ptr()] = store.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        step()
    return sum(found.values()) / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[w for w in WAYS if w != "compiled"])
    parser.add_argument("--repeats", type=int, default=5)
    asked, others = parser.parse_known_args(argv)
    return guarded("bench_compute", lambda: measure(asked, others), resumes=False)


def measure(asked: argparse.Namespace, others: Sequence[str]) -> None:
    """Print a table."""
    ways = list(dict.fromkeys(["as ever", *asked.ways]))
    calls = {way: made(way, others) for way in ways}
    found = {way: told for way, (_, _, told) in calls.items()}
    for _ in range(asked.repeats):
        for step, frozen, told in calls.values():
            told["step"] = min(told.get("step", float("inf")), seconds(step))
            told["frozen"] = min(told.get("frozen", float("inf")), seconds(frozen))
    print("| way | step (ms) | ratio | frozen pass (ms) | ratio | kept (MB) | ratio | first (s) |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    base = found["as ever"]
    for way, one in found.items():
        cells = [f"{one[k] * f:.1f} | {one[k] / base[k]:.2f}" for k, f in (("step", 1e3), ("frozen", 1e3), ("kept", 1))]
        print(f"| {way} | {' | '.join(cells)} | {one['first']:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())

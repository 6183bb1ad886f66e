"""The loop. Read this file first.

A scenario yields steps. Each step holds an event for the learner (learn these classes, forget those) and an exam that
only the evaluator opens. The strategy, or the unlearner, answers an event with plans; each plan is trained by a fresh
Lightning trainer. After each event the learner is examined on everything so far, and a journal keeps what happened.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, final

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from cl_framework.adapters.low_rank import overlaps
from cl_framework.engine import checkpoint, lineage
from cl_framework.engine.holdout import held_out
from cl_framework.engine.learner import Learner, parameters
from cl_framework.engine.sample_index import Contents, cells, pooled
from cl_framework.engine.trainers import MakeTrainer, peak_memory, quiet
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.measurements import Measurements
from cl_framework.memory.exemplars import Memory
from cl_framework.memory.provenance import Read, met
from cl_framework.methods.compatibility import check_request
from cl_framework.methods.lessons import plans
from cl_framework.models.finite import LOWER, check_tensors
from cl_framework.streams import origins
from cl_framework.streams.events import Event, Experience, ForgetRequest, Scenario, Step, surviving
from cl_framework.streams.samples import Batch, Samples
from cl_framework.streams.seeds import seed_for

DIVERGED = f"training diverged, or statistics overflowed; {LOWER}, or the lr of the unlearner"


@dataclass(slots=True)
class Cost:
    """What an event took: seconds, optimiser steps, trainable parameters, images through the backbone, bytes.

    A forget request also says how many different samples it trained on, of those that go and of those that stay.
    Features that another run had left in a shared store are ``found``: they took no pass.
    """

    seconds: float = 0.0
    steps: int = 0
    trainable_parameters: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    stored_bytes: int = 0
    read: dict[str, int] = field(default_factory=dict)
    found: int = 0


class Journal(Protocol):
    """Whoever wants to know: a run directory, a screen, a test."""

    def starts(self, step: Step) -> None:
        """Hear that an event begins."""

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        """Hear what came of it."""


def run(
    learner: Learner,
    scenario: Scenario,
    make_trainer: MakeTrainer,
    evaluator: Evaluator,
    journal: Journal,
    batch_size: int = 48,
    done: Sequence[Measurements] = (),
    validation: float = 0.0,
) -> None:
    """Meet every step of ``scenario`` in order, examining the learner after each.

    Args:
        learner: The model and its strategies, already in the state after ``done``.
        scenario: The stream.
        make_trainer: Builds a fresh trainer for a number of epochs; None means the configured number.
        evaluator: Opens the exams.
        journal: Told about every event.
        batch_size: Samples per training step.
        done: Measurements of the events of an earlier process, which are not repeated.
        validation: Share of each plan's samples to hold out, for a loss that tells when to stop.
    """
    learner.to(make_trainer(None).strategy.root_device)  # statistics and exams run where training does
    seen: list[Step] = []
    for i, step in enumerate(scenario.steps()):
        if i < len(done):
            evaluator.restore(step, done[i])
            if i == len(done) - 1:  # a kill may have come between the record and what follows from it
                settle(learner, step)
        else:
            remember(learner, surviving(seen))
            journal.starts(step)
            measurements, cost = take(learner, step, make_trainer, evaluator, batch_size, validation)
            journal.ends(step, measurements, cost)
            settle(learner, step)
        seen.append(step)


def take(
    learner: Learner,
    step: Step,
    make_trainer: MakeTrainer,
    evaluator: Evaluator,
    batch_size: int,
    validation: float = 0.0,
) -> tuple[Measurements, Cost]:
    """Carry out one event and examine what came of it."""
    before, found, began = learner.model.passes.copy(), learner.model.store.found, time.perf_counter()
    evaluator.before(step, learner.answer)
    cost = carry_out(learner, step.event, make_trainer, batch_size, validation)
    bank = learner.model.adapters
    learner.model.store.keep_only([*learner.model.digests(bank), "bare"], learner.model.digests(bank.stack))
    ranked = partial(learner.answer, ranked=True)
    measurements = evaluator.examine(step, ranked, learner.model.classes, learner.model.known)
    if isinstance(step.event, ForgetRequest) and measurements.forget is not None and learner.unlearner is not None:
        scrub(learner, step.event, step.exam)
        measurements = replace(
            measurements, forget=replace(measurements.forget, notes=learner.unlearner.notes(learner.model, step.event))
        )
    measurements = replace(
        measurements, overlap=overlaps(bank, step.event.name if isinstance(step.event, Experience) else None)
    )
    cost.passes = {k: learner.model.passes[k] - before[k] for k in ("train", "statistics", "evaluate")}
    cost.found = learner.model.store.found - found
    cost.seconds, cost.peak_memory_bytes = time.perf_counter() - began, peak_memory()
    cost.stored_bytes = checkpoint.size_of(learner)
    return measurements, cost


def carry_out(
    learner: Learner, event: Event, make_trainer: MakeTrainer, batch_size: int, validation: float = 0.0
) -> Cost:
    """Train each plan that ``event`` calls for, with a fresh trainer: a used one trains zero steps, silently.

    If that fails, the learner is as it was before.
    """
    with checkpoint.all_or_nothing(learner):
        return _carried_out(learner, event, make_trainer, batch_size, validation)


def _carried_out(learner: Learner, event: Event, make_trainer: MakeTrainer, batch_size: int, validation: float) -> Cost:
    cost, read, seed = Cost(), set[int](), seed_for(event.dice, learner.model.seed)
    foretold: list[lineage.Treatment] = []
    if isinstance(event, ForgetRequest):
        unlearner = check_request(learner.model, learner.strategy, learner.unlearner, event)
        foretold = lineage.treatments(learner, event, unlearner)
    for plan in plans(learner.model, learner.strategy, learner.unlearner, event):
        device, size = learner.model.device, plan.batch_size or batch_size
        learner.begin(plan, event.name)
        cost.trainable_parameters = max(cost.trainable_parameters, sum(p.numel() for p in parameters(plan)))
        trainer, noted = make_trainer(plan.epochs), set[tuple[int, int]]()
        with quiet():
            try:
                read_here = _Noted(plan.data.on(device), noted)
                trainer.fit(learner, *loaders(read_here, size, validation, seed))
            except SystemExit as stopped:  # Lightning turns Ctrl-C into an exit
                raise KeyboardInterrupt from stopped
        if trainer.global_step == 0:
            raise UserError(
                f"Nothing was trained for {event.name!r}: no step was taken. Check trainer.max_epochs and its limits."
            )
        cost.steps += trainer.global_step
        check_tensors({f"parameter {i}": p for i, p in enumerate(parameters(plan))}, event.name, DIVERGED)
        against = {cell: None for cell in origins.cells(learner.model.brought) if cell[1] in plan.against}
        learner.model.trace(parameters(plan), {**_met(learner, event, plan.data.classes(), noted), **against})
        read |= {i for _, i in noted}
        learner.to(device)  # Lightning leaves a fitted module on the CPU
        learner.end()
    check_tensors(checkpoint.tensors(learner), event.name, DIVERGED)
    if isinstance(event, ForgetRequest):
        checkpoint.arrange(learner, [e.name for e in event.remaining])  # one that was made again came last
        stay = {i for e in event.remaining for i in e.data.ids.tolist()}  # made-up samples are neither
        cost.read = {"forget": len(read & set(event.data.ids.tolist())), "retain": len(read & stay)}
        learner.model.outlived = lineage.outlived(learner, event, foretold, read)
    return cost


@final
class _Noted(Samples):
    """The same samples; those that are read are noted by class and id."""

    def __init__(self, whole: Samples, read: set[tuple[int, int]]) -> None:
        self.whole, self.read = whole, read
        self.labels, self.ids, self.key = whole.labels, whole.ids, whole.key

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        batch = self.whole[rows]
        self.read.update(zip(batch.y.tolist(), batch.ids.tolist(), strict=True))
        return batch


def _met(learner: Learner, event: Event, classes: Sequence[int], read: set[tuple[int, int]]) -> Read:
    """Return what a plan read: of each class of an experience the samples, None for all that are alive."""
    gone: Contents = {}
    if isinstance(event, ForgetRequest):
        gone, there = event.taken, {e.name: e.data for e in event.remaining}
    else:
        memories = [m for m in learner.strategy.modules() if isinstance(m, Memory)]
        there = {name: data for m in memories for name, data in m.sources.items()} | {event.name: event.data}
    alive = pooled(cells(name, data, classes) for name, data in there.items())
    return met(classes, read, alive, origins.cells(learner.model.brought), gone)


def loaders(
    samples: Samples, batch_size: int, share: float, seed: int
) -> tuple[DataLoader[Batch], DataLoader[Batch] | None]:
    """Read samples to train on and, where a share is held out, those, always in one order; else None."""
    if not share:
        return loader(samples, batch_size), None
    train, held = held_out(samples, share, seed)
    if not len(held):
        raise UserError("No class has two samples, so none can be held out; set data.validation to 0.")
    in_order = BatchSampler(SequentialSampler(held), batch_size, drop_last=False)
    return loader(train, batch_size), DataLoader(held, sampler=in_order, batch_size=None)


def loader(samples: Samples, batch_size: int) -> DataLoader[Batch]:
    """Read whole batches at once, in an order drawn anew each epoch."""
    return DataLoader(
        samples, sampler=BatchSampler(RandomSampler(samples), batch_size, drop_last=False), batch_size=None
    )


def scrub(learner: Learner, event: ForgetRequest, exam: Samples) -> None:
    """Drop what is kept of samples that must be forgotten, and of those their exam was held on: features and copies."""
    for samples in (event.reference, exam):
        samples.release(range(len(samples)))
    for key, ids in taken(event, exam):
        learner.model.store.drop(key, ids)


def settle(learner: Learner, step: Step) -> None:
    """Do with shared features, too, what a recorded event calls for: others may find new ones, and none forgotten."""
    learner.model.store.settle(taken(step.event, step.exam) if isinstance(step.event, ForgetRequest) else ())


def taken(event: ForgetRequest, exam: Samples) -> list[tuple[str | None, Tensor]]:
    """Return the ids of samples that must be forgotten, and of their exam's, by source, split and transform."""
    return [(part.key, part.ids) for part in (*event.reference.sources, *exam.sources)]


def remember(learner: Learner, past: Sequence[Experience]) -> None:
    """Give memories access to the data of past experiences, which they keep by id, as far as they are there."""
    memories = [part for part in learner.strategy.modules() if isinstance(part, Memory)]
    there = [_there(e) for e in past] if memories else []
    for part in memories:
        part.attach(there)


def _there(past: Experience) -> Experience:
    """Return an experience without samples that are gone: what is trained anew goes on without them."""
    mask = past.data.present(range(len(past.data)))
    if bool(mask.all()):
        return past
    return replace(past, data=past.data.where(mask), reference=past.reference.where(mask))

"""The loop. Read this file first.

A scenario yields steps. Each step holds an event for the learner (learn these classes, forget those) and test samples
(its exam) that only the evaluator reads. The strategy, or the unlearner, yields plans for an event; each plan is
trained by a new Lightning trainer. After each event the learner is evaluated on everything so far, and a journal
records it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from cl_framework.adapters.low_rank import overlaps
from cl_framework.engine import checkpoint
from cl_framework.engine.journal import Cost, Journal
from cl_framework.engine.learner import Learner
from cl_framework.engine.loaders import loaders
from cl_framework.engine.recording import recorded
from cl_framework.engine.removal import check_removed
from cl_framework.engine.trainers import MakeTrainer, fitted, peak_memory
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.measurements import Measurements
from cl_framework.memory.exemplars import Memory
from cl_framework.methods.lessons import plans
from cl_framework.models.finite import LOWER, check_tensors
from cl_framework.streams.events import Event, Experience, ForgetRequest, Step, surviving
from cl_framework.streams.samples import Samples
from cl_framework.streams.scenario import Scenario
from cl_framework.streams.seeds import seed_for

DIVERGED = f"training diverged, or statistics overflowed; {LOWER}, or the lr of the unlearner"


def run_stream(
    learner: Learner,
    scenario: Scenario,
    make_trainer: MakeTrainer,
    evaluator: Evaluator,
    journal: Journal,
    batch_size: int = 48,
    done: Sequence[Measurements] = (),
    validation: float = 0.0,
) -> None:
    """Carry out every step of ``scenario`` in order, and evaluate the learner after each.

    Args:
        learner: The model and its strategies, already in the state after ``done``.
        scenario: The stream.
        make_trainer: Builds a fresh trainer for a number of epochs; None means the configured number.
        evaluator: Evaluates on the exams.
        journal: Observes every event.
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
            attach_memories(learner, surviving(seen))
            journal.starts(step)
            measurements, cost = carry_out_step(learner, step, make_trainer, evaluator, batch_size, validation)
            journal.ends(step, measurements, cost)
            settle(learner, step)
        seen.append(step)


def carry_out_step(
    learner: Learner,
    step: Step,
    make_trainer: MakeTrainer,
    evaluator: Evaluator,
    batch_size: int,
    validation: float = 0.0,
) -> tuple[Measurements, Cost]:
    """Carry out the event of a step and evaluate the learner."""
    model, event = learner.model, step.event
    passes_before, found_before, started = model.passes.copy(), model.store.found, time.perf_counter()
    evaluator.before(step, learner.answer)
    cost = carry_out(learner, event, make_trainer, batch_size, validation)
    # Valid features were made by adapters as they are now, or by none ("bare"), under the present stack of edits.
    bank = model.adapters
    model.store.keep_only([*model.digests(bank), "bare"], model.digests(bank.stack))
    ranked = partial(learner.answer, ranked=True)
    measurements = evaluator.examine(step, ranked, model.classes, model.known)
    if isinstance(event, ForgetRequest) and measurements.forget is not None and learner.unlearner is not None:
        scrub(learner, event, step.exam)
        notes = learner.unlearner.notes(model, event)
        measurements = replace(measurements, forget=replace(measurements.forget, notes=notes))
    learned = event.name if isinstance(event, Experience) else None
    measurements = replace(measurements, overlap=overlaps(bank, learned))
    cost.passes = {k: model.passes[k] - passes_before[k] for k in ("train", "statistics", "evaluate")}
    cost.found = model.store.found - found_before
    cost.seconds, cost.peak_memory_bytes = time.perf_counter() - started, peak_memory()
    cost.stored_bytes = checkpoint.size_of(learner)
    return measurements, cost


def carry_out(
    learner: Learner, event: Event, make_trainer: MakeTrainer, batch_size: int, validation: float = 0.0
) -> Cost:
    """Train each plan of ``event`` with a new trainer: a used one silently trains zero steps.

    If that fails, the learner is restored.
    """
    with checkpoint.all_or_nothing(learner):
        return _carried_out(learner, event, make_trainer, batch_size, validation)


def _carried_out(learner: Learner, event: Event, make_trainer: MakeTrainer, batch_size: int, validation: float) -> Cost:
    cost, seed = Cost(), seed_for(event.seed_source, learner.model.seed)
    with recorded(learner, event) as recording:
        # Each plan comes with its samples, wrapped so that those read are noted as met by what the plan trains.
        for plan, samples in recording.of(plans(learner.model, learner.strategy, learner.unlearner, event)):
            device, size = learner.model.device, plan.batch_size or batch_size
            learner.begin(plan, event.name)
            cost.trainable_parameters = max(cost.trainable_parameters, sum(p.numel() for p in plan.parameters()))
            train, held = loaders(samples.on(device), size, validation, seed)
            cost.steps += fitted(make_trainer(plan.epochs), learner, event.name, train, held)
            check_tensors({f"parameter {i}": p for i, p in enumerate(plan.parameters())}, event.name, DIVERGED)
            learner.to(device)  # Lightning leaves a fitted module on the CPU
            learner.end()
        check_tensors(checkpoint.tensors(learner), event.name, DIVERGED)
        if isinstance(event, ForgetRequest):
            if learner.unlearner is not None:
                check_removed(learner, event, learner.unlearner)
            # An adapter learned again was added last; oldest first is the order of a run without the forget set.
            checkpoint.arrange(learner, [e.name for e in event.remaining])
    cost.read = recording.counts()
    return cost


def scrub(learner: Learner, event: ForgetRequest, exam: Samples) -> None:
    """Delete features and cached copies of forgotten samples and of their test samples."""
    for samples in (event.reference, exam):
        samples.release(range(len(samples)))
    for key, ids in forgotten_ids(event, exam):
        learner.model.store.drop(key, ids)


def settle(learner: Learner, step: Step) -> None:
    """Update shared features after a recorded event: add new ones, delete forgotten ones."""
    learner.model.store.settle(forgotten_ids(step.event, step.exam) if isinstance(step.event, ForgetRequest) else ())


def forgotten_ids(event: ForgetRequest, exam: Samples) -> list[tuple[str | None, Tensor]]:
    """Return the ids of samples that must be forgotten, and of their exam's, by source, split and transform."""
    return [(part.key, part.ids) for part in (*event.reference.sources, *exam.sources)]


def attach_memories(learner: Learner, past: Sequence[Experience]) -> None:
    """Give memories access to the data of past experiences, which they keep by id, as far as they exist."""
    memories = [part for part in learner.strategy.modules() if isinstance(part, Memory)]
    sources = [_there(e) for e in past] if memories else []
    for part in memories:
        part.attach(sources)


def _there(past: Experience) -> Experience:
    """Return an experience without missing samples, for training again."""
    mask = past.data.present(range(len(past.data)))
    if bool(mask.all()):
        return past
    return replace(past, data=past.data.where(mask), reference=past.reference.where(mask))

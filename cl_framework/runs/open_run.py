"""A run opened for work: its directory, the experiment behind it, its timeline and the steps, each worked out once."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import final

import msgspec
import torch

from cl_framework.configuration.experiment import Experiment
from cl_framework.engine import loop
from cl_framework.engine.learner import Learner
from cl_framework.engine.tracking import ResultsJournal, tracked
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.evaluation.screen import Screen
from cl_framework.runs import feature_sharing, receipts, relocation, reopening
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.recorder import ReceiptDetails, RunRecorder
from cl_framework.streams import sample_list_file, survey
from cl_framework.streams.events import Step
from cl_framework.streams.identifiers import as_typed
from cl_framework.streams.sample_record import SampleRecord, record_samples
from cl_framework.streams.timeline import Timeline
from cl_framework.terminal.console import CONSOLE


@final
class OpenRun:
    """A run that is open for work; `reopen` makes one of a directory.

    Args:
        directory: The run directory.
        experiment: The experiment of its config, with the learner in the state of the last event.
        timeline: Its whole stream; `go_on` carries out the remaining steps.
    """

    def __init__(self, directory: RunDirectory, experiment: Experiment, timeline: Timeline) -> None:
        """Store the parts; `reopen` makes them."""
        self.directory, self.experiment, self.timeline = directory, experiment, timeline

    @classmethod
    def reopen(
        cls, directory: RunDirectory, overrides: Sequence[str] = (), changes: Sequence[str] = (), renew: bool = False
    ) -> OpenRun:
        """Build a run's experiment again and put its learner into the state of the last event.

        The stream is rebuilt from the run's list of samples. Data without one are compared as a whole.

        Args:
            directory: The run.
            overrides: Options for this call only.
            changes: Settings of the optimiser that hold from now on, beside those with which the run went on last.
            renew: Whether to look what is there of the samples: those that were never met are taken as they are now.

        Raises:
            UserError: If a file, the backbone's weights, or data without a list are not what they were.
        """
        experiment = reopening.experiment_of(directory, overrides, changes)
        timeline = reopening.timeline_of(directory, experiment.scenario, renew)
        reopening.restore_learner(directory, experiment)
        return cls(directory, experiment, timeline)

    @property
    def path(self) -> Path:
        """Path of the run."""
        return self.directory.path

    @property
    def learner(self) -> Learner:
        """The learner of the experiment."""
        return self.experiment.learner

    @property
    def steps(self) -> list[Step]:
        """Every step of the timeline, done or not.

        Raises:
            UserError: If a request cannot be resolved.
        """
        return list(self.timeline.steps())

    @property
    def done(self) -> int:
        """Number of steps that the run has met."""
        return len(self.directory.events())

    @property
    def left(self) -> list[Step]:
        """The steps that the run has not met yet."""
        return self.steps[self.done :]

    def check_finished(self) -> None:
        """Refuse a run that has requests left.

        Raises:
            UserError: If it has.
        """
        if self.left:
            raise UserError(f"{self.path} is not finished; `clf resume {self.path}` first.")

    def along(self, timeline: Timeline) -> OpenRun:
        """Return the same run with another timeline, which begins with what the run has met."""
        return OpenRun(self.directory, self.experiment, timeline)

    def recorder(self, details: ReceiptDetails | None = None, samples: SampleRecord | None = None) -> RunRecorder:
        """Return the recorder of the run's next events.

        Args:
            details: Fields that a forget request adds to its receipt.
            samples: The run's list of samples.
        """
        experiment, timeline = self.experiment, self.timeline
        lasting = {reopening.CHANGED: list(experiment.changes)} if experiment.changes else {}
        notes = [
            lasting if i < 0 else {"later": [i, msgspec.to_builtins(timeline.later[i])], **lasting}
            for i, _ in timeline.marked()
        ]
        data = [self.directory.origin.data, *(s.data for s in timeline.later if s.data is not None)]
        facts = {"data": data, "versions": reopening.versions()}
        receipt_details = dataclasses.replace(details or ReceiptDetails(), facts=facts)
        screen = Screen(CONSOLE, timeline.class_names, len(notes), experiment.bar)
        return RunRecorder(self.directory, self.learner, timeline.class_names, screen, notes, receipt_details, samples)

    def go_on(self, details: ReceiptDetails | None = None) -> None:
        """Carry out the remaining steps, and print where the results are."""
        directory, experiment, learner = self.directory, self.experiment, self.learner
        samples = self._listed()
        recorder, last_receipt = self.recorder(details, samples), receipts.last(self.path)
        if warning := other_threads(directory):
            CONSOLE.print(warning, soft_wrap=True)
        store, weights = learner.model.store, directory.origin.backbone.sha256
        store.folder = self.path
        store.source = feature_sharing.shared_features(experiment, weights, self.timeline, bool(recorder.records))
        carry_out_recorded(experiment, self.timeline, recorder, directory.config)
        self._say_where(recorder.close(), last_receipt)

    def _listed(self) -> SampleRecord:
        """Return the run's list of samples; unlisted sources are listed now, which reads files.

        From then on the stream takes its samples from the list, so that what is listed now is resolved again.
        """
        raw = self.directory.samples()
        if raw is None and self.done:
            return SampleRecord(())
        kept = sample_list_file.decode_list(raw, self.path / sample_list_file.FOLDER) if raw is not None else []
        streams = [self.timeline.first, *self.timeline.streams]
        with survey.Bar(CONSOLE) as bar:
            sources = [s.listing(bar) if known is not None else None for s, known in zip(streams, kept, strict=False)]
            new = [record_samples(s, bar) for s in streams[len(kept) :]]
        if any(new):
            self.timeline = self.timeline.relisted()
        record = SampleRecord([*sources, *new], raw, self.timeline.key)
        record.place(self.timeline)
        for source in filter(None, record.sources):
            relocation.note_relative(source, self.path)
        return record

    def _say_where(self, figure: Path, last_receipt: str) -> None:
        """Print where the results are, and the next command.

        Args:
            figure: Path of the figure.
            last_receipt: Hash of the last receipt before.
        """
        CONSOLE.print(f"figure   {figure}", soft_wrap=True)
        CONSOLE.print(f"results  {self.path / 'results.json'}", soft_wrap=True)
        if (kept := receipts.last(self.path)) != last_receipt:
            keep = "Keep this hash elsewhere: `clf verify DIR --last HASH` refuses older copies."
            CONSOLE.print(f"receipt  {kept}\n         {keep}")
        if trial := self.experiment.trial:
            CONSOLE.print(f"note     {trial} is a trial: these numbers are no result", soft_wrap=True)
        alive, where = self.learner.model.classes, shlex.quote(str(self.path))
        word = as_typed(alive[0], self.timeline.class_names, alive) if alive else ""
        verb = f"forget {where} --classes {word}" if alive else f"verify {where}"
        CONSOLE.print(f"next     clf {verb}", soft_wrap=True)


def carry_out_recorded(experiment: Experiment, timeline: Timeline, book: ResultsJournal, config: str) -> None:
    """Carry out the steps of a timeline that a journal has not recorded, and log them.

    Args:
        experiment: The learner, its trainers and loggers.
        timeline: The whole stream.
        book: Records every event; it may hold events of an earlier process.
        config: Settings of the run for loggers, as YAML without names of classes and samples to forget.
    """
    learner = experiment.learner
    with tracked(book, learner, experiment.loggers, config) as journal:
        loop.run_stream(
            learner,
            timeline,
            experiment.make_trainer,
            Evaluator(learner.strategy.isolates == "experience"),
            journal,
            experiment.batch_size,
            book.measurements,
            experiment.validation,
        )


def other_threads(directory: RunDirectory) -> str | None:
    """Return a notice if this process has another number of CPU threads than the run had; else None."""
    events, now = directory.events(), torch.get_num_threads()
    before = events[-1].state.get("threads") if events else directory.manifest.threads
    if before is None or before == now:
        return None
    return (
        f"{directory.path} was made with {before} CPU threads so far and goes on with {now}: the last bits of new "
        f"numbers may differ from those of a run that was not interrupted; CLF_THREADS={before} keeps them equal."
    )

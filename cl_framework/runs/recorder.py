"""The recorder of a run: it commits every event and prints its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from cl_framework.engine import checkpoint
from cl_framework.engine.journal import Cost
from cl_framework.engine.learner import Learner
from cl_framework.evaluation import results as evaluation_results
from cl_framework.evaluation import tables
from cl_framework.evaluation.measurements import Measurements
from cl_framework.evaluation.screen import Screen
from cl_framework.runs import contents, derived_files, maintenance, receipts
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.receipt_contents import receipt_of
from cl_framework.runs.signatures import Sign
from cl_framework.streams.events import ForgetRequest, Step
from cl_framework.streams.sample_record import SampleRecord


@final
@dataclass(frozen=True, slots=True)
class ReceiptDetails:
    """Details of a forget request for its receipt and commit.

    Attributes:
        requester: The requester.
        sign: Signs the receipt.
        whole: Whether the event stores the whole state, so that earlier events keep none of theirs.
        facts: Hashes of the data and of what runs now.
        people: Person -> ids of the samples that the person asked for, where one request serves several.
    """

    requester: str | None = None
    sign: Sign | None = None
    whole: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    people: Mapping[str, Sequence[int]] = field(default_factory=dict)


@final
class RunRecorder:
    """Commits every event to the run directory and prints the table of results.

    Args:
        run: The run directory.
        learner: The learner to store.
        class_names: Name of each class id.
        screen: Prints each request and the table of results.
        notes: Record to store with each event, by position in the stream.
        details: Details of forget requests for their receipts.
        samples: The run's list of samples.
    """

    def __init__(
        self,
        run: RunDirectory,
        learner: Learner,
        class_names: Sequence[str],
        screen: Screen,
        notes: Sequence[dict[str, Any]] = (),
        details: ReceiptDetails | None = None,
        samples: SampleRecord | None = None,
    ) -> None:
        """Restore the events that are already committed."""
        self.run, self.learner, self.class_names, self.screen = run, learner, class_names, screen
        self.notes, self.details = notes, details or ReceiptDetails()
        self.samples = samples or SampleRecord(())
        self._results: tuple[int, dict[str, Any]] | None = None
        self.records = contents.event_results(run)

    @property
    def measurements(self) -> list[Measurements]:
        """Measurements of every committed event, in order."""
        return [r.measurements for r in self.records]

    def starts(self, step: Step) -> None:
        """Print the request, also on the progress bar."""
        self.screen.starts(step, len(self.records))

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        """Commit the event and print the table; only the new row where output is no terminal."""
        record = cost.result(measurements)
        note = self.notes[len(self.records)] if self.notes else {}
        self.run.commit(
            step.event.name,
            measurements.kind,
            checkpoint.tensors(self.learner),
            {**checkpoint.facts(self.learner), **note, "threads": torch.get_num_threads()},
            record.to_dict(),
            self.learner.model.store.state(),
            self._receipt(step, measurements, cost),
            self.details.sign,
            self.details.whole and isinstance(step.event, ForgetRequest),
            self.samples.after(step, self.class_names),
        )
        self.records.append(record)
        self.screen.ends(self.results())

    def results(self) -> dict[str, Any]:
        """Return the results so far; forgotten classes have no name in them."""
        if self._results is None or self._results[0] != len(self.records):
            name = type(self.learner.strategy).__name__
            results = evaluation_results.run_report(name, self.records, self.class_names)
            if trial := self.run.manifest.trial:
                results["trial"] = trial
            self._results = len(self.records), results
        return self._results[1]

    def close(self) -> Path:
        """Write results and figure, and print the headline; return the figure's path."""
        derived_files.drop(self.run.path)
        figure = evaluation_results.write_results(self.results(), self.run.path)
        derived_files.add(self.run.path, derived_files.RESULTS, len(self.records))
        self.screen.console.print(tables.headline(self.results()))
        return figure

    def _receipt(self, step: Step, measurements: Measurements, cost: Cost) -> dict[str, Any] | None:
        if not isinstance(step.event, ForgetRequest) or measurements.forget is None or self.learner.unlearner is None:
            return None
        before, who = self.records[-1].measurements if self.records else None, self.details.requester
        facts: dict[str, Any] = {"data": self.run.manifest.data, "config": self.run.manifest.config.sha256}
        facts |= self.details.facts
        if self.details.people:
            gone = set(step.event.data.ids.tolist())
            people = {name: gone.intersection(ids) for name, ids in self.details.people.items()}
            facts["requesters"] = receipts.requesters(self.run.path, people)
        foreign = len(maintenance.foreign(self.run.path, self.run.events()))
        return receipt_of(self.run.path, self.learner, step.event, measurements, cost, before, facts, who, foreign)

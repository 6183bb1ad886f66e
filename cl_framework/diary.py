"""What a run writes down and shows after every event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from cl_framework import receipts, report, state
from cl_framework.engine import Cost
from cl_framework.learner import Learner
from cl_framework.marks import Marks
from cl_framework.report import EventRecord
from cl_framework.run import Run
from cl_framework.stream import Experience, ForgetRequest, Step
from cl_framework.training import RequestBar


@final
class Diary:
    """Commits every event to the run directory and prints the table as it grows.

    Args:
        run: Where to write.
        learner: Whose state to write.
        class_names: What each class id is called.
        console: Where to print.
        bar: The progress bar to label.
        total: How many events there will be.
        notes: What to write beside each event, by position in the stream.
    """

    def __init__(
        self,
        run: Run,
        learner: Learner,
        class_names: Sequence[str],
        console: Console,
        bar: RequestBar,
        total: int,
        notes: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Take up the events that are already committed."""
        self.run, self.learner, self.class_names, self.console, self.bar = run, learner, class_names, console, bar
        self.total, self.notes = total, notes
        self.records = [EventRecord.from_dict(run.metrics(e)) for e in run.events()]

    @property
    def marks(self) -> list[Marks]:
        """Marks of every committed event, in order."""
        return [r.marks for r in self.records]

    def starts(self, step: Step) -> None:
        """Name the request, also on the progress bar."""
        event = step.event
        verb = "learn" if isinstance(event, Experience) else "forget"
        names = ", ".join(self.class_names[c] for c in event.classes[:6]) + (" ..." if len(event.classes) > 6 else "")
        what = names or f"{len(event.data)} samples"
        self.bar.label = f"    training {event.name}"
        line = Table.grid(padding=(0, 1))
        done = ProgressBar(total=self.total, completed=len(self.records), width=24)
        line.add_row(done, f"[bold]{len(self.records) + 1}/{self.total} {verb} {event.name} ({what})[/bold]")
        self.console.print(line)

    def ends(self, step: Step, marks: Marks, cost: Cost) -> None:
        """Commit the event and print the table."""
        record = EventRecord(
            marks,
            cost.seconds,
            cost.trainable_parameters,
            cost.steps,
            cost.passes["train"],
            cost.passes["statistics"],
            cost.passes["evaluate"],
            cost.peak_memory_bytes,
            cost.stored_bytes,
        )
        note = self.notes[len(self.records)] if self.notes else {}
        self.run.commit(
            step.event.name,
            marks.kind,
            state.tensors(self.learner),
            {**state.facts(self.learner), **note},
            record.to_dict(),
            self.learner.model.store.state(),
            self._receipt(step, marks),
        )
        self.records.append(record)
        self.console.print(report.table(self.results()))

    def results(self) -> dict[str, Any]:
        """Return the results so far."""
        learned = [(r.marks.event, r.marks.classes) for r in self.records if r.marks.kind == "learn"]
        return report.results(type(self.learner.strategy).__name__, learned, self.records, self.class_names)

    def close(self) -> Path:
        """Write results and figure, and print the headline; return the figure's path."""
        figure = report.write(self.results(), self.run.path)
        self.console.print(report.headline(self.results()))
        return figure

    def _receipt(self, step: Step, marks: Marks) -> dict[str, Any] | None:
        if not isinstance(step.event, ForgetRequest) or marks.forget is None or self.learner.unlearner is None:
            return None
        before = self.results()["curve"][-1] if self.records else None
        right, total = (sum(column) for column in zip(*marks.hits.values(), strict=True)) if marks.hits else (0, 0)
        return receipts.draft(
            self.run.path,
            step.event.name,
            step.event.classes,
            step.event.data.ids.tolist(),
            type(self.learner.unlearner).__name__,
            self.learner.unlearner.exact,
            {"forget": marks.forget.accuracy_before, "live": before},
            {"forget": marks.forget.accuracy_after, "live": right / total if total else None},
        )

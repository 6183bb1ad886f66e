"""The sample list of a run in progress, and its update by each event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from cl_framework.streams import sample_list, sample_list_file
from cl_framework.streams.events import Experience, Step
from cl_framework.streams.sample_list import ListedSource
from cl_framework.streams.scenario import Scenario
from cl_framework.streams.survey import Watch, unwatched
from cl_framework.streams.timeline import Timeline


@final
class SampleRecord:
    """The sample list of a run in progress.

    Args:
        sources: The samples of the config's scenario and of each stream learned later; None for one without a list.
        stored: The list as written last.
        key: The run's key; None if it was deleted.
    """

    def __init__(
        self, sources: Sequence[ListedSource | None], stored: bytes | None = None, key: bytes | None = None
    ) -> None:
        """Store the list."""
        self.sources, self.key, self._stored = list(sources), key, stored

    def place(self, timeline: Timeline) -> None:
        """Note which experience brings each sample, and under which ids the stream knows it."""
        streams = [-1, *(i for i, spec in enumerate(timeline.later) if spec.learn is not None)]
        whose = dict(zip(streams, self.sources, strict=False))
        steps = [(whose.get(origin), origin, step) for origin, step in timeline.marked()]
        for each in filter(None, self.sources):
            each.experiences = []
            for rows in (each.train, each.test):
                rows.experiences = [-1] * len(rows.ids)
        at = {id(s): [{own: i for i, own in enumerate(r.ids)} for r in (s.train, s.test)] for s in self.sources if s}
        for source, origin, step in steps:
            if source is None or not isinstance(step.event, Experience):
                continue
            source.offset = timeline.offsets[origin]
            source.as_new = timeline.later[origin].as_new or "" if origin >= 0 else ""
            number = len(source.experiences)
            source.experiences.append(step.event.name)
            brought = (source.train, step.event.data.ids), (source.test, step.exam.ids)
            for (rows, ids), places in zip(brought, at[id(source)], strict=True):
                for own in (ids - source.offset).tolist():
                    if own in places:
                        rows.experiences[places[own]] = number

    def after(self, step: Step, names: Sequence[str]) -> bytes | None:
        """Return the list to be written with an event; None if it is unchanged.

        Args:
            step: The event.
            names: Name of each class id.
        """
        if not any(self.sources):
            return None
        if not isinstance(step.event, Experience):
            gone, vanished = set(step.event.data.ids.tolist()), {names[c] for c in step.event.classes}
            for source in filter(None, self.sources):
                whose = {name.removeprefix(source.as_new) for name in vanished if name.startswith(source.as_new)}
                sample_list.forget_rows(source, gone, whose, self.key)
        now = sample_list_file.encode_list(self.sources)
        if now == self._stored:
            return None
        self._stored = now
        return now


def record_samples(scenario: Scenario, watch: Watch = unwatched) -> ListedSource | None:
    """List the samples of a scenario, and make it use that list from now on."""
    source = scenario.listing(watch)
    if source is not None:
        scenario.relist(source, None)
    return source

"""Plan of a forget request: its effect on the files and stored features of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from cl_framework.engine.learner import Learner
from cl_framework.engine.lineage import Artifact, RecordedOrigins, by_id
from cl_framework.engine.sample_index import Contents, SampleIndex, indexes_of, pooled, samples_by_class
from cl_framework.engine.treatments import Action, Treatment, treatments
from cl_framework.methods.compatibility import check_request
from cl_framework.runs.directory import RunDirectory
from cl_framework.runs.records import EventRecord
from cl_framework.storage import tensors
from cl_framework.storage.files import read_listed
from cl_framework.streams.events import Experience, ForgetRequest, Step, surviving
from cl_framework.streams.origins import Cell
from cl_framework.streams.samples import Samples

GOES, NONE, CHANGES, UNDER = (
    "of samples that go",
    "none is of a sample that goes",
    "measured with an adapter that changes or goes; measured again where they are needed",
    "measured without the edit that every pass will go through; measured again where they are needed",
)
STORED = "stored features"
WRITTEN: tuple[tuple[str, str, Action, str], ...] = (
    ("results", "results.json", "redact", "names of forgotten classes go; numbers stay, by class id"),
    ("results", "results.csv", "redact", "names of forgotten classes go; numbers stay, by class id"),
    ("figures", "figures/accuracy.png", "rewrite", "drawn again from the new results"),
    ("audit", "audit.json", "keep", "numbers and names of requests; no class names, no sample ids"),
)


@final
@dataclass(frozen=True, slots=True)
class ForgetEffect:
    """Effect of a request on an artifact, and the artifact's samples.

    Attributes:
        treatment: The artifact, its treatment, and the reason.
        made: The training samples it depends on.
        examined: The test samples it depends on.
    """

    treatment: Treatment
    made: Contents = field(default_factory=dict)
    examined: Contents = field(default_factory=dict)


@final
class Case:
    """A request at the end of a stream that a learner and a run have met.

    Args:
        run: The run directory; its events are those of all steps but the last.
        learner: In the state after them.
        steps: The stream; the last step is the request.

    Attributes:
        now: The census before the request.
        taken: The training samples to forget.
        tested: The test samples of forgotten classes.
    """

    def __init__(self, run: RunDirectory, learner: Learner, steps: Sequence[Step]) -> None:
        """Resolve the request."""
        *self.past, self.step = steps
        event = self.step.event
        assert isinstance(event, ForgetRequest)
        self.run, self.learner, self.event = run, learner, event
        self.unlearner = check_request(learner.model, learner.strategy, learner.unlearner, event)
        self.after = [SampleIndex(), *indexes_of(s.event for s in steps)]  # [i] is the one before step i
        self.now, self.taken = self.after[-2], self.after[-1].taken[event.name]
        exams = pooled(self.exams())
        self.tested = {} if event.single else {cell: ids for cell, ids in exams.items() if cell[1] in event.classes}
        self.inside = treatments(learner, event, self.unlearner)
        self._contents: dict[str, Contents] = {}

    def exams(self, steps: int | None = None) -> Iterator[Contents]:
        """Yield the test samples of each experience among the first ``steps``, all unless given."""
        for s in self.past[:steps]:
            if isinstance(s.event, Experience):
                yield samples_by_class(s.event.name, s.exam, s.event.classes)

    def in_learner(self) -> list[ForgetEffect]:
        """Resolve what the learner holds."""
        return [ForgetEffect(t, self._made(t.artifact)) for t in self.inside]

    def _made(self, a: Artifact) -> Contents:
        if a.holder not in self._contents:
            parts = [self.now.resolved(a.made), self.now.among(a.ids or frozenset())]
            self._contents[a.holder] = pooled(parts)
        return self._contents[a.holder]

    def in_store(self) -> list[ForgetEffect]:
        """Resolve stored features: rows of forgotten samples are deleted, and all rows under a changed adapter."""
        parts = [*self.event.reference.sources, *self.step.exam.sources]
        gone = {(part.key, i) for part in parts for i in part.ids.tolist()}
        stay: tuple[Action, str] = ("delete", UNDER) if self.unlearner.acts == "stack" else ("keep", NONE)
        model, bank = self.learner.model, self.learner.model.adapters
        changed = set(model.digests(t.artifact.name for t in self.inside if self._changes(t)))
        adapters = {
            digest: self._made(t.artifact)
            for t in self.inside
            if t.artifact.name in bank and t.artifact.kind in ("adapter", "edit")
            for digest in model.digests([t.artifact.name])
        }
        fates: dict[tuple[Action, str], _Rows] = {}
        for trained, experience, part in self._sources():
            label = dict(zip(part.ids.tolist(), part.labels.tolist(), strict=True))
            for key in model.store.keys(part.key) if part.key is not None else ():
                through = key.split("/")[0].split("+")
                other: tuple[Action, str] = ("delete", CHANGES) if changed & set(through) else stay
                for i in part.ids[model.store.known(key, part.ids)].tolist():
                    rows = fates.setdefault(("delete", GOES) if (part.key, i) in gone else other, _Rows())
                    rows.count += 1
                    (rows.made if trained else rows.examined).setdefault((experience, label[i]), set()).add(i)
                    rows.through |= set(through) & adapters.keys()
        size = model.backbone.width * 4
        return [
            ForgetEffect(
                Treatment(Artifact(STORED, f"{r.count} rows", (), bytes=r.count * size, count=r.count), action, why),
                pooled([_frozen(r.made), *(adapters[d] for d in sorted(r.through))]),
                _frozen(r.examined),
            )
            for (action, why), r in sorted(fates.items())
        ] or [ForgetEffect(Treatment(Artifact(STORED, "none", (), count=0), "keep", "nothing is stored"))]

    def _changes(self, t: Treatment) -> bool:
        kind = t.artifact.kind
        return (kind == "adapter" and t.action != "keep") or (kind == "edit" and t.action == "delete")

    def _sources(self) -> Iterator[tuple[bool, str, Samples]]:
        """Yield what features may be stored of: whether it was trained on, its experience, its samples by source."""
        for e in surviving(self.past):
            yield from ((True, e.name, part) for part in e.reference.sources)
        for s in self.past:
            if isinstance(s.event, Experience):
                yield from ((False, s.event.name, part) for part in s.exam.sources)

    def in_files(self) -> list[ForgetEffect]:
        """Resolve the files of the run: earlier checkpoints lose what is replaced, results lose names."""
        events = self.run.events()
        trained = pooled(f.made for f in self.in_learner() if f.treatment.artifact.holder.startswith("strategy."))
        why = "never stored: worked out again from what is left"
        planned = [
            ForgetEffect(Treatment(Artifact("derived", name, ()), "rewrite", why), trained)
            for name in self.learner.strategy.derived
        ]
        planned += [self._checkpoint(i, e, events[i + 1 :]) for i, e in enumerate(events)]
        for i, e in enumerate(events, 1):
            listed = Artifact("event metrics", e.metrics, (), bytes=e.files[e.metrics].bytes)
            planned.append(self._seen(listed, "keep", "counts by class id; no names, no sample ids", i))
        for kind, place, action, why in WRITTEN:
            if (file := self.run.path / place).exists():
                planned.append(self._seen(Artifact(kind, place, (), bytes=file.stat().st_size), action, why))
        asked = pooled(self.now.taken.values())
        for kind, place, why, contents in (
            ("config", "config.yaml", "requests in it hold class ids and keyed hashes only", {}),
            ("receipts", "receipts.jsonl", "one line is added; keyed hashes, no names", asked),
            ("logs", "trainer loggers", "losses by step; no names, no sample ids", self._trained(events)),
        ):
            planned.append(ForgetEffect(Treatment(Artifact(kind, place, ()), "keep", why), contents))
        return planned

    def _seen(self, a: Artifact, action: Action, why: str, steps: int | None = None) -> ForgetEffect:
        """Predict the effect on records of exams: on test samples, and on single forgotten samples."""
        singles = [s.event.name for s in self.past[:steps] if isinstance(s.event, ForgetRequest) and s.event.single]
        asked = pooled(self.now.taken[name] for name in singles)
        return ForgetEffect(Treatment(a, action, why), asked, pooled(self.exams(steps)))

    def _checkpoint(self, i: int, e: EventRecord, later: Sequence[EventRecord]) -> ForgetEffect:
        """Predict the effect on the tensors of an event: some are current, others were replaced since."""
        changed = {n for t in self.inside if t.action != "keep" for n in t.artifact.tensors}
        replaced = e.tensors.keys() & {n for other in later for n in [*other.tensors, *other.removed]}
        held = {n: t.artifact for t in self.inside for n in t.artifact.tensors}
        parts: list[Contents] = [self._made(held[n]) for n in e.tensors.keys() - replaced if n in held]
        then, listed = RecordedOrigins.now(self.learner).then(e.state), by_id(self.learner)
        parts += [self.after[i + 1].resolved(then.made(n)) for n in replaced if not n.startswith(listed)]
        if ids := {n for n in replaced if n.startswith(listed)}:
            stored = tensors.unpack(read_listed(self.run.path / e.data, e.files[e.data]))
            parts += [self.after[i + 1].among(frozenset(stored[n].tolist())) for n in ids]
        hit = sorted(changed & e.tensors.keys())
        artifact = Artifact("checkpoint", e.folder, tuple(hit), bytes=e.files[e.data].bytes)
        why = "tensors that are deleted or replaced are taken out" if hit else "holds nothing that changes"
        return ForgetEffect(Treatment(artifact, "rewrite" if hit else "keep", why), pooled(parts))

    def _trained(self, events: Iterable[EventRecord]) -> Contents:
        """Return every sample ever trained on, also of state that was learned again or deleted."""
        known = RecordedOrigins.now(self.learner)
        states = [known.then(e.state) for e in events]
        return pooled(self.after[i].resolved(s.trained()) for i, s in enumerate(states, 1))


@dataclass(slots=True)
class _Rows:
    """Features with the same treatment."""

    count: int = 0
    made: dict[Cell, set[int]] = field(default_factory=dict)
    examined: dict[Cell, set[int]] = field(default_factory=dict)
    through: set[str] = field(default_factory=set)


def _frozen(cells: Mapping[Cell, set[int]]) -> dict[Cell, frozenset[int]]:
    return {cell: frozenset(ids) for cell, ids in cells.items()}

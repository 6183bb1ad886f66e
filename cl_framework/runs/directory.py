"""The run directory: events, each written atomically and checked by hash when read.

An event is written under a temporary name, flushed and renamed. It stores only the tensors that are new or changed;
the state is the union of all events. A forget event also deletes what it replaced or removed from earlier events, so
that no old file holds forgotten state. torch is imported when tensors are asked for.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import msgspec
from msgspec.structs import replace

from cl_framework.errors import UserError
from cl_framework.feature_cache import rows as feature_cache_rows
from cl_framework.runs import derived_files, maintenance, receipts, records, relocation
from cl_framework.runs import manifest as runs_manifest
from cl_framework.runs.manifest import MANIFEST, SCHEMA, ExperimentOrigin, Manifest
from cl_framework.runs.records import EVENTS, FEATURES, SAMPLES, EventRecord
from cl_framework.storage import files, locks
from cl_framework.storage import tensors as storage_tensors
from cl_framework.storage.files import read_listed, sibling
from cl_framework.storage.typed_records import RESTORE, parsed, typed
from cl_framework.streams.identifiers import keyed_digest

if TYPE_CHECKING:
    from torch import Tensor

    from cl_framework.runs.signatures import Sign
    from cl_framework.storage.envelopes import Signature

CONFIG = "config.yaml"


@final
class RunDirectory:
    """A run directory; `create` starts one, `open` finds one.

    Attributes:
        path: Where it is.
        manifest: Versions, hashes and seeds it was started with.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `create` or `open` instead."""
        self.path, self.manifest = path, manifest
        self._known: dict[str, Tensor] | None = None

    @classmethod
    def create(
        cls, path: str | Path, config: str, manifest: Mapping[str, Any], key: bytes | None = None
    ) -> RunDirectory:
        """Start a run in a new or empty directory, or replace one without events.

        Args:
            path: The directory.
            config: The resolved configuration, with samples and classes to forget hashed.
            manifest: Versions, hashes and seeds.
            key: The key that ``config`` was hidden with; a new one unless given.

        Raises:
            UserError: If something is there already, or the disk refuses.
        """
        path, text, key = _real(Path(path)), config.encode(), key or receipts.new_key()
        cls.check_free(path)
        if (path / MANIFEST).exists():
            with cls.open(path).lock():
                maintenance.discard(path)
        record = {"schema": SCHEMA, **manifest, "config": files.entry(text), "key": receipts.key_mark(key)}
        try:
            files.make(path)
            files.write(sibling(path / MANIFEST), files.seal(record))
            receipts.write_key(path, key)
            files.replace(path / CONFIG, text)
            files.rename(sibling(path / MANIFEST), path / MANIFEST)  # from here on it is a run
        except OSError as error:
            raise UserError(f"Could not start a run in {path} ({error.strerror}); choose another --run_dir.") from error
        return cls.open(path)

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Require that a run can start in a directory.

        Raises:
            UserError: If something is there already.
        """
        path = Path(path)
        if (path / MANIFEST).exists():
            if not maintenance.eventless(path):
                raise UserError(f"{path} already holds a run; `clf resume {path}` continues it.")
        elif path.exists() and not _vacant(path):
            raise UserError(f"{path} is not an empty directory; choose another --run_dir.")

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open a run that exists.

        Raises:
            UserError: If it is no run, its manifest is not JSON, or a newer version wrote it.
        """
        path = _real(Path(path))
        manifest = runs_manifest.read_manifest(path)
        maintenance.refuse_links(path)
        return cls(path, manifest)

    @property
    def origin(self) -> ExperimentOrigin:
        """The weights and data that it was made with.

        Raises:
            UserError: If the manifest does not tell.
        """
        return typed(msgspec.to_builtins(self.manifest), ExperimentOrigin, self.path / MANIFEST)

    @property
    def config(self) -> str:
        """The resolved configuration it was started with.

        Raises:
            UserError: If it or the manifest was edited.
        """
        manifest = files.unseal(self.path / MANIFEST, Manifest)
        try:
            return read_listed(self.path / CONFIG, manifest.config).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path / CONFIG} is damaged: it is no text in UTF-8; {RESTORE}.") from error

    def events(self) -> list[EventRecord]:
        """Return the committed events in order, without leftovers of killed writes.

        Raises:
            UserError: If the manifest, the config or a record was edited, or an event is missing in between.
        """
        _ = self.config
        if problems := records.gaps(self.path):
            raise UserError(f"{problems[0]}; restore it from a copy.")
        return [records.read_event(self.path, self.manifest.sha256, f) for f in records.committed(self.path)]

    def metrics(self, event: EventRecord) -> dict[str, Any]:
        """Return the measurements after ``event``."""
        return parsed(self._read(event, event.metrics), dict[str, Any], self.path / event.metrics)

    def samples(self) -> bytes | None:
        """Return the list of samples as the last event that changed it wrote it; None where no event has one.

        Raises:
            UserError: If it is missing or was edited.
        """
        last = records.sample_event(self.events())
        return None if last is None else self._read(last, last.samples)

    def state(self) -> dict[str, Tensor]:
        """Return every tensor as the last event left it, on the CPU.

        Raises:
            UserError: If a file is missing, truncated or edited; nothing of it is loaded.
        """
        tensors: dict[str, Tensor] = {}
        for event in self.events():
            stored = storage_tensors.unpack(self._read(event, event.data), self.path / event.data)
            if stored.keys() != event.tensors.keys():
                raise UserError(f"{self.path / event.data} holds other tensors than {event.place} tells; {RESTORE}.")
            tensors |= stored
            for name in event.removed:
                tensors.pop(name, None)
        return tensors

    def features(self) -> dict[str, Tensor]:
        """Return all stored features as pairs ``<key>/ids`` ``(n,)`` int64 and ``<key>/rows`` ``(n, width)``."""
        return feature_cache_rows.join_rows(list(self.feature_parts()))

    def feature_parts(self) -> Iterator[dict[str, Tensor]]:
        """Yield the same, as each event stored it."""
        seen: list[dict[str, Tensor]] = []
        for event in records.feature_events(self.events()):
            part = feature_cache_rows.pairs(files.find_listed(self.path / event.features, event.files[event.features]))
            seen.append({n: ids for n, ids in part.items() if n.endswith("/ids")})
            yield part
        self._known = feature_cache_rows.known_rows(feature_cache_rows.join_rows(seen))

    def _read(self, event: EventRecord, place: str) -> bytes:
        return read_listed(self.path / place, event.files[place])

    def commit(
        self,
        name: str,
        kind: Literal["learn", "forget"],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        metrics: Mapping[str, Any],
        features: Mapping[str, Tensor] | None = None,
        receipt: Mapping[str, Any] | None = None,
        sign: Sign | None = None,
        whole: bool = False,
        samples: bytes | None = None,
    ) -> EventRecord:
        """Add an event atomically.

        Args:
            name: The event's name, unique in the run.
            kind: ``learn`` or ``forget``.
            tensors: The full state now; only what differs from the events so far is stored.
            state: JSON values to restore on resume.
            metrics: JSON values that were measured; None where undefined.
            features: All features held now, as pairs ``<key>/ids`` and ``<key>/rows``. Only new rows are stored; if
                any are gone, one file of what is left replaces all earlier ones. None leaves them unchanged.
            receipt: What `receipts.draft` returned; hashes of what changed are added.
            sign: Signs the receipt; the signature is part of the event, so a kill cannot separate them.
            whole: Store every tensor here. A forget event then leaves none in the files of earlier events.
            samples: The list of samples, if it changed; it replaces the one before.

        Raises:
            UserError: If the name is taken, the run is damaged, or the disk refuses; the run is then as it was.
        """
        events = self.events()
        receipts.read_receipts(self.path)
        if name in {e.name for e in events}:
            raise UserError(f"{self.path} already holds an event named {name!r}; choose another name.")
        before, after = records.overlay(events), {n: storage_tensors.fingerprint(t) for n, t in tensors.items()}
        changed = {n: after[n] for n in sorted(after) if whole or before.get(n) != after[n]}
        removed = sorted(before.keys() - after.keys())
        rows, fresh, known = self._new_features(features)
        run, folder = self.manifest.sha256, records.folder_name(len(events), kind, name)
        event = EventRecord(run, folder, name, kind, dict(state), changed, removed, {}, fresh)
        blobs: dict[str, Sequence[bytes | memoryview]] = {
            event.data: [storage_tensors.pack({n: tensors[n] for n in changed})],
            event.metrics: [files.encode_json(metrics)],
        }
        if rows:
            blobs[event.features] = storage_tensors.packed(rows)
        if samples is not None:
            blobs[event.samples] = [samples]
        event = replace(event, files={place: files.entry(*parts) for place, parts in blobs.items()})
        if receipt is not None:
            facts = self._testified(receipt, events, event, before, after)
            event = replace(event, receipt=facts, signatures=self._signatures(event.folder, facts, sign))
        try:
            self._write(event, blobs)
        except OSError as error:
            shutil.rmtree(self.path / EVENTS / event.folder, ignore_errors=True)
            maintenance.remove_leftovers(self.path, events)
            raise UserError(
                f"Could not write event {name!r} ({error.strerror}); the run is as it was before: "
                f"make room, then `clf resume {self.path}`."
            ) from error
        self._known = known
        self.sweep()
        return event

    def _testified(
        self,
        receipt: Mapping[str, Any],
        events: Sequence[EventRecord],
        event: EventRecord,
        before: Mapping[str, str],
        after: Mapping[str, str],
    ) -> dict[str, Any]:
        """Return the receipt with what only the run knows: hashes of states and artifacts, bytes removed.

        Fingerprints of single tensors are keyed: that of a few sample ids could be found by trying.
        """
        key = receipts.run_key(self.path)
        marks = [{n: keyed_digest(key, "tensor", h) for n, h in side.items()} for side in (before, after)]
        touched = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        return {
            **receipt,
            "state": {"before": records.state_hash(before), "after": records.state_hash(after)},
            "history": records.history_hash([*events, event]),
            "artifacts": {n: [side.get(n) for side in marks] for n in touched},
            "bytes_removed": maintenance.bytes_to_remove(self.path, events, event),
        }

    def _signatures(self, folder: str, facts: Mapping[str, Any], sign: Sign | None) -> tuple[Signature, ...]:
        if sign is not None:
            self.sweep()  # the line before this one must be there, for its hash is signed too
        # Made in any case: what canonical JSON cannot hold is refused before the event counts.
        signed = receipts.to_sign({"event": folder, **facts}, receipts.last(self.path))
        return (sign(signed),) if sign is not None else ()

    def _new_features(
        self, features: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], bool, dict[str, Tensor] | None]:
        """Return the rows to store, whether they replace all earlier ones, and which rows are then known."""
        if features is None:
            return {}, False, self._known
        if self._known is None:
            deque(self.feature_parts(), maxlen=0)
        known, now = self._known or {}, feature_cache_rows.known_rows(features)
        gone = feature_cache_rows.lost_rows(known, now)
        return feature_cache_rows.new_rows(features, {} if gone else known), gone, now

    def _write(self, event: EventRecord, blobs: Mapping[str, Sequence[bytes | memoryview]]) -> None:
        final = self.path / EVENTS / event.folder
        files.remove(sibling(final))
        for folder in (final.parent, sibling(final), self.path / FEATURES, self.path / SAMPLES):
            files.make(folder)
        apart = (event.features, event.samples)
        for place, parts in blobs.items():
            files.write(self.path / place if place in apart else sibling(final) / Path(place).name, *parts)
        files.write(sibling(final) / "state.json", event.record)
        for folder in (sibling(final), self.path / FEATURES, self.path / SAMPLES, self.path):
            files.sync(folder)
        files.rename(sibling(final), final)  # from here on the event counts

    def sweep(self) -> None:
        """Finish or undo what a killed process left unfinished; idempotent.

        Raises:
            UserError: If the run is damaged, or the disk refuses.
        """
        maintenance.sweep(self.path, self.events())

    def verify(self) -> list[str]:
        """Return every problem, each naming a file or a receipt's line; nothing when all hashes match."""
        try:
            _ = self.config, relocation.read_moves(self.path)
        except UserError as error:
            return [str(error)]  # without its manifest nothing else can be checked
        problems = maintenance.run_problems(self.path, self.manifest.sha256)
        if problem := receipts.broken_key(self.path, self.manifest.key):
            problems.append(f"{problem}; restore it from a copy.")
        return problems + derived_files.index_problems(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Block writes of other processes for the duration of the block.

        Raises:
            UserError: If one is writing now.
        """
        maintenance.refuse_links(self.path)
        file, remedy = self.path / ".lock", "copy the run to a local disk"
        with ExitStack() as stack:
            try:
                handle = stack.enter_context(locks.locked(file, wait=False, remedy=remedy))
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path} is in use by {locks.holder(file)}; nothing was changed: wait for it to end, or "
                    "stop it, then give the same command again."
                ) from error
            locks.sign_in(handle)
            yield


def _real(path: Path) -> Path:
    """Return the path of a run. Its directory and parents may be links; nothing inside may be one."""
    return path.resolve() if path.is_symlink() or path.parent.is_symlink() else path


def _vacant(path: Path) -> bool:
    """Tell whether a directory holds only leftovers of a killed `RunDirectory.create`."""
    if not path.is_dir():
        return False
    names, waiting = {p.name for p in path.iterdir()}, sibling(path / MANIFEST).name
    first_files = [CONFIG, receipts.KEY]  # may be foreign, unless an unfinished manifest is beside them
    ours = {waiting, *(sibling(path / name).name for name in first_files)}
    return names <= ours or (waiting in names and names <= {*ours, *first_files})

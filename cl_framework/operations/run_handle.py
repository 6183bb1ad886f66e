"""``cl_framework.Run``: a run on disk from Python. Each method does what the verb of `clf` of its name does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, final

from cl_framework.auditing import verdict
from cl_framework.auditing.verdict import Conclusion
from cl_framework.configuration.described import class_paths, written
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.evaluation.run_results import Results
from cl_framework.methods.base import Unlearner
from cl_framework.operations import forgetting, queries, run_audit, streaming, verification
from cl_framework.operations.forgetting import ForgetWords
from cl_framework.operations.queries import Evaluation, Prediction
from cl_framework.operations.run_audit import AuditOptions
from cl_framework.operations.running import check_stream, path_from, results_of, showing_progress, trusting
from cl_framework.runs import contents, directory, reopening
from cl_framework.runs.open_run import OpenRun
from cl_framework.runs.signatures import signer
from cl_framework.streams.events import Need
from cl_framework.streams.sample_list import ListedSample
from cl_framework.streams.scenario import Scenario


@final
@dataclass(frozen=True, slots=True, repr=False)
class Audit:
    """What an audit found.

    Attributes:
        report: Everything that ``audit.json`` holds, as docs/audit.md lists it.
        conclusions: One statement about answers, features, membership and relearning each.
    """

    report: dict[str, Any]
    conclusions: tuple[Conclusion, ...]

    def __repr__(self) -> str:
        """Return the conclusions as `clf audit` prints them."""
        return "\n".join(verdict.verdict_lines(list(self.conclusions)))


@final
class Run:
    """A run on disk; `open` finds one.

    Attributes:
        path: Where it is.
    """

    def __init__(self, kept: directory.RunDirectory, trust: str | Sequence[str] = ()) -> None:
        """Use `open` instead."""
        self._directory, self._trust = kept, (trust,) if isinstance(trust, str) else tuple(trust)
        self._opened: tuple[list[str], OpenRun] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], trust: str | Sequence[str] = (), relocate: Sequence[str] = ()) -> Run:
        """Open the run in a directory.

        Args:
            path: The directory.
            trust: Packages, modules or classes of your own that its config names, one or several; their code will run.
            relocate: What was moved since, each ``OLD=NEW``; the run remembers it.

        Raises:
            UserError: If there is no run, or ``path`` is no path.
        """
        return cls(reopening.opened(path_from("The directory", path), relocate), trust)

    def __repr__(self) -> str:
        """Return where it is."""
        return f"Run.open({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._directory.path

    @property
    def results(self) -> Results:
        """The results after the last request.

        Raises:
            UserError: If there are none yet.
        """
        return results_of(self.path)

    @property
    def learner(self) -> Learner:
        """The learner as the last event left it, in memory: what is done to it does not reach the files."""
        return self._read().learner

    def resume(self, progress: bool = True) -> Results:
        """Carry out the requests that are left after a kill or an error.

        Raises:
            UserError: If the run is damaged, or what it needs is not there.
        """
        with self._writing(progress):
            streaming.resume_run(self._directory)
        return self.results

    def learn(self, stream: Scenario, as_new: str | None = None, progress: bool = True) -> Results:
        """Learn the experiences of another stream.

        Args:
            stream: A scenario of experiences; all its parts are of classes that can be imported.
            as_new: What to put before the names of its classes, so that they are classes of their own.
            progress: Whether to show how far it has come, if there is a terminal.

        Raises:
            UserError: If the run has requests left, or the stream cannot be learned.
        """
        check_stream(stream)
        described = written(stream, "stream")
        with self._writing(progress, class_paths(described)):
            streaming.learn_more(self._directory, ["--data.scenario", json.dumps(described)], as_new)
        return self.results

    def forget(
        self,
        classes: Iterable[int | str] = (),
        experiences: Iterable[str] = (),
        samples: Iterable[int | str | os.PathLike[str]] = (),
        cells: Iterable[tuple[str, int | str]] = (),
        *,
        where: Iterable[str] = (),
        without: Iterable[Need] = (),
        unlearner: Unlearner | None = None,
        requester: str | None = None,
        sign: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Results:
        """Forget, and write a receipt.

        Args:
            classes: Ids, or names.
            experiences: Names.
            samples: Ids, paths, folders or patterns, or files of such words.
            cells: Experiences, each with one of its classes, by id or name: what it brought of that class.
            where: Conditions on the columns of a table, each ``COLUMN=VALUE``.
            without: Samples that cannot be had any more: those to ``forget``, those to ``retain``.
            unlearner: How to forget, in place of the run's own way.
            requester: Who asks; the receipt keeps a keyed hash of it.
            sign: File of an Ed25519 private key to sign the receipt with.
            progress: Whether to show how far it has come, if there is a terminal.

        Raises:
            UserError: If the request cannot be honoured; the run is then as it was.
        """
        words = ForgetWords(
            _words("classes", classes),
            _words("experiences", experiences),
            [f"{name}:{_words('cells', [cls])[0]}" for name, cls in cells],
            _words("samples", samples),
            _words("where", where),
            list(without),
        )
        way = None if unlearner is None else written(unlearner, "unlearner")
        overrides = [] if way is None else ["--model.unlearner", json.dumps(way)]
        with self._writing(progress, class_paths(way)):
            key = signer(os.fspath(sign)) if sign is not None else None
            forgetting.carry_out_request(self._directory, words, overrides, requester, key)
        return self.results

    def predict(self, given: Any) -> Prediction:
        """Name what is in pictures or sentences.

        Args:
            given: Pictures: an array or tensor ``(n, 3, H, W)``, uint8 or floats from 0 to 1 (channels last, and grey,
                will do), one picture of Pillow or one path, or a list of such. Sentences: one or a list; a
                `pathlib.Path` is a file that holds one.

        Raises:
            UserError: If they are not what the stream of this run holds, or the run knows no class.
        """
        run = self._read()
        return queries.predict_inputs(run, run.timeline.first.inputs(given))

    def evaluate(self, data: str | None = None) -> Evaluation:
        """Measure again on the run's own test samples and compare with its record; or on other data.

        Args:
            data: Such as ``imagefolder:PATH``; classes are matched by name.

        Raises:
            UserError: If no test sample is there.
        """
        run = self._read()
        return queries.evaluate_run(run) if data is None else queries.evaluate_on(run, data)

    def audit(self, fast: bool = False, progress: bool = True, **options: Any) -> Audit:
        """Weigh what the run has forgotten against models that never knew it, and models that never forgot.

        Args:
            fast: Whether to do without models that must be trained for that.
            progress: Whether to show how far it has come, if there is a terminal.
            options: Those of `AuditOptions`: request, original, retrained, seeds, shadows, relearn.

        Raises:
            UserError: If the run has forgotten nothing.
        """
        with self._writing(progress):
            report = run_audit.audit_run(self._directory, AuditOptions(fast=fast, **options))
        return Audit(report, tuple(Conclusion(**c) for c in report["conclusions"]))

    def samples(self) -> list[ListedSample]:
        """Return every sample that the run knows and has not forgotten; nothing if its stream can list none.

        Raises:
            UserError: If the list was edited.
        """
        return contents.known_samples(self._directory)

    def verify(self, last: str | None = None, public: str | os.PathLike[str] | None = None) -> list[str]:
        """Check every file and receipt against its hash; return every problem, none if all is well.

        Args:
            last: Hash of a receipt that must be there; an older copy of the run lacks it.
            public: File of an Ed25519 public key to check signatures against.

        Raises:
            UserError: If the key cannot be read.
        """
        return verification.problems(self._directory, last, None if public is None else os.fspath(public))

    @contextmanager
    def _writing(self, progress: bool, paths: Iterable[str] = ()) -> Iterator[None]:
        """Let go of the opened model, which will be out of date; trust what the caller trusts while the block runs."""
        self._opened = None
        with trusting([*self._trust, *paths]), showing_progress(progress):
            yield

    def _read(self) -> OpenRun:
        """Return the run with its model as the last event left it, opened once as long as nothing happens."""
        events = [e.folder for e in self._directory.events()]
        if self._opened is None or self._opened[0] != events:
            with trusting(self._trust):
                self._opened = events, OpenRun.reopen(self._directory)
        return self._opened[1]


def _words(name: str, given: Iterable[object]) -> list[str]:
    """Return what a request names as it would be typed: an id as ``id:3``.

    Raises:
        UserError: If it is one word in place of several, or is neither a word nor a whole number.
    """
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise UserError(f"{name} must be a list; found {given!r}.")
    words = []
    for one in given:
        if isinstance(one, str | os.PathLike):
            words.append(str(one))
        elif isinstance(one, bool) or not hasattr(one, "__index__"):
            raise UserError(f"{name} takes words and whole numbers; found {one!r}.")
        else:
            words.append(f"id:{index(one)}")
    return words

"""The samples that a run knows, found by what a person writes: ids, places, names, folders, patterns, columns.

Needs no torch: a request that names nothing is answered at once.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, final

from cl_framework.errors import UserError, did_you_mean
from cl_framework.operations.spellings import is_pattern, last_part, spellings_of, translated
from cl_framework.runs.receipts import KEY, run_key
from cl_framework.settings.ranges import LARGEST
from cl_framework.storage import files
from cl_framework.streams import sample_list, sample_list_file
from cl_framework.streams.sample_list import ListedSample, ListedSource, hidden_name

if TYPE_CHECKING:
    from cl_framework.runs.directory import RunDirectory


_SHOWN = 3
"""How many samples a message names."""


@final
class Known:
    """The samples that a run learned from and has not forgotten, to be found by what a person writes.

    Args:
        sources: The run's list; None where nobody kept one.
        key: The run's key, by which paths of forgotten samples are found; None without.
        run: What the run is called in messages.
    """

    def __init__(self, sources: Sequence[ListedSource | None], key: bytes | None = None, run: str = "RUN") -> None:
        """Keep the list."""
        self.sources, self.key, self.run = sources, key, run
        whole = sample_list.listed_samples(sources)
        self.samples = [s for s in whole if s.split == "train"]
        exams = [s for s in whole if s.split == "test" and s.place]
        self.exams = {place for s in exams for place in (s.place, self._whole(s))}

    @classmethod
    def of(cls, run: RunDirectory) -> Known:
        """Read the list of a run.

        Raises:
            UserError: If it was edited, or the run's key is damaged.
        """
        raw, has_key = run.samples(), (run.path / KEY).exists()  # deleting the key is a way to forget
        sources = [] if raw is None else sample_list_file.decode_list(raw)
        return cls(sources, run_key(run.path) if has_key else None, str(run.path))

    def where(self, conditions: Iterable[str]) -> list[ListedSample]:
        """Return the samples whose columns hold what all ``conditions`` say.

        Args:
            conditions: Each ``COLUMN=VALUE``.

        Raises:
            UserError: If one is no condition, no table has the column, or no sample is left.
        """
        matches = self.samples
        columns = {name for s in matches for name in s.columns}
        for condition in conditions:
            name, equals, value = condition.partition("=")
            if not equals:
                raise UserError(f"--where takes COLUMN=VALUE, such as user=alice; found {condition!r}.")
            if name not in columns:
                hint = did_you_mean(name, columns) if columns else "Only tables and records have columns."
                raise UserError(f"No sample of {self.run} has a column {name!r}. {hint}")
            matches = [s for s in matches if s.columns.get(name) == value]
            if not matches:
                raise UserError(f"No sample that is not forgotten has {condition}; {self.lists}.")
        return matches

    def ids(self, word: str) -> list[int]:
        """Return the ids of the samples that a word names.

        Raises:
            UserError: If it names none, or could be several.
        """
        number = word.removeprefix("id:")
        if number.isdecimal():
            if int(number) >= LARGEST:
                raise UserError(f"{word!r} is too large for a sample's id; {self.lists}.")
            if self._ever and int(number) not in self._ever:
                raise UserError(f"The run learned from no sample {number}; {self.lists}.")
            return [int(number)]
        for way in (self._placed, self._gone, self._matching, self._named, self._alike):
            if ids := way(word):
                return ids
        if not any(self.sources):
            raise UserError(f"{self.run} keeps no list of its samples, so that {word!r} finds none; give ids.")
        if self.examines(word):
            raise UserError(f"{word!r} is a test sample, from which the run learned nothing; name training samples.")
        if is_pattern(word):
            raise UserError(f"The pattern {word!r} fits no sample that is not forgotten; {self.lists}.")
        rows_went = any(s and not s.files and s.train.gone for s in self.sources)  # they are not found by their line
        left = " that is not forgotten" if rows_went else ""
        raise UserError(f"{word!r} is no file, id, name or pattern of a sample{left}; {self.lists}.")

    def examines(self, word: str) -> bool:
        """Tell whether a word is the place of a sample that the run is examined on."""
        return not self.exams.isdisjoint(spellings_of(word))

    @property
    def lists(self) -> str:
        """What tells all samples, as the end of a message."""
        return f"`clf list samples {self.run}` lists them"

    def _placed(self, word: str) -> list[int]:
        """Find a place as the list tells it, a path seen from here, a line as FILE:LINE, or all below a folder."""
        for spelling in spellings_of(word):
            if matches := self._places.get(spelling):
                return self._only(word, matches)
            if matches := self._folders.get(spelling.rstrip("/")):
                return [s.id for s in matches]
            if spelling in self._roots:  # a dot is typed too easily
                raise UserError(f"All data lie below {word!r}; to name every sample write {spelling + '/**'!r}.")
        return []

    def _gone(self, word: str) -> list[int]:
        """Find a file that was forgotten, so that asking again can be answered."""
        for source, forgotten in self._forgotten if self.key is not None else ():
            for spelling in spellings_of(word):
                place = spelling.removeprefix(f"{source.root}/")
                if (sample := forgotten.get(hidden_name(self.key, "place", place))) is not None:
                    return [sample]
        return []

    def _matching(self, word: str) -> list[int]:
        """Find what a pattern fits: whole places, or names of files where the pattern names no folder."""
        if not is_pattern(word):
            return []
        fit = re.compile("|".join(translated(w) for w in dict.fromkeys(spellings_of(word)))).fullmatch
        names = "/" not in word
        return [
            s.id
            for s in self.samples
            if s.place and (fit(s.place) or fit(self._whole(s)) or (names and fit(last_part(s.place))))
        ]

    def _named(self, word: str) -> list[int]:
        """Find the end of a place, such as the name of a file."""
        end = word.removeprefix("./")
        return self._only(word, [s for s in self._names.get(last_part(end), []) if f"/{s.place}".endswith(f"/{end}")])

    def _alike(self, word: str) -> list[int]:
        """Find the picture that a file holds whose place is not listed: one that was renamed, moved or copied."""
        file = Path(word).expanduser()
        if not file.is_file() or not any(s and s.kind == "pictures" for s in self.sources):
            return []
        digest = files.file_hash(file)
        return self._only(word, [s for s in self.samples if s.digest == digest and self._pictured(s)])

    def _pictured(self, sample: ListedSample) -> bool:
        source = self.sources[sample.source]
        return source is not None and source.kind == "pictures"

    def _only(self, word: str, matches: Sequence[ListedSample]) -> list[int]:
        """Return the one sample found, if there is one.

        Raises:
            UserError: If there are several.
        """
        if len(matches) > 1:
            names = ", ".join(f"{self._whole(s) or 'a sample'} (id {s.id})" for s in matches[:_SHOWN])
            more = ", ..." if len(matches) > _SHOWN else ""
            raise UserError(f"{word!r} could be {names}{more}; give the whole path or the id.")
        return [s.id for s in matches]

    def _whole(self, sample: ListedSample) -> str:
        """Return a place with the folder that it lies below."""
        source = self.sources[sample.source]
        return f"{source.root}/{sample.place}" if source and source.root and sample.place[0] != "/" else sample.place

    @cached_property
    def _places(self) -> Mapping[str, list[ListedSample]]:
        return _by(self.samples, lambda s: {s.place, self._whole(s)} if s.place else ())

    @cached_property
    def _names(self) -> Mapping[str, list[ListedSample]]:
        return _by(self.samples, lambda s: [last_part(s.place)] if s.place else ())

    @cached_property
    def _folders(self) -> Mapping[str, list[ListedSample]]:
        """All folders of places, with and without the root above them."""
        roots = [source.root if source else "" for source in self.sources]
        parents = {s.place.rpartition("/")[0] for s in self.samples} - {""}
        above = {p: [p, *map(str, PurePosixPath(p).parents)][:-1] for p in parents} | {"": []}

        def folders(s: ListedSample) -> list[str]:
            own, root = above[s.place.rpartition("/")[0]], roots[s.source] if s.place else ""
            return [*own, *(f"{root}/{folder}" for folder in own if root)]

        return _by(self.samples, folders)

    @cached_property
    def _roots(self) -> set[str]:
        return {source.root for source in self.sources if source and source.root and source.train.ids}

    @cached_property
    def _ever(self) -> set[int]:
        """All ids that the run ever learned from; none where some stream has no list."""
        sources = [s for s in self.sources if s is not None]
        return {i + s.offset for s in sources for i in s.train.ids} if len(sources) == len(self.sources) else set()

    @cached_property
    def _forgotten(self) -> list[tuple[ListedSource, dict[str, int]]]:
        """Of each source of files: keyed hash of the place of each forgotten one -> its id."""
        return [
            (s, {s.train.places[i]: s.train.ids[i] + s.offset for i in s.train.gone})
            for s in self.sources
            if s is not None and s.files
        ]


def _by(
    samples: Iterable[ListedSample], names_of: Callable[[ListedSample], Iterable[str]]
) -> dict[str, list[ListedSample]]:
    """Return samples by what is told of them."""
    by_name = defaultdict[str, list[ListedSample]](list)
    for s in samples:
        for name in names_of(s):
            by_name[name].append(s)
    return dict(by_name)

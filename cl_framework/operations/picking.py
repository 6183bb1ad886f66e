"""From the words and conditions of a request to the ids of a run's samples.

Needs no torch: a request that names nothing is answered at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from cl_framework.errors import UserError
from cl_framework.operations import request_file
from cl_framework.operations.known_samples import Known

if TYPE_CHECKING:
    from cl_framework.runs.directory import RunDirectory


@final
@dataclass(frozen=True, slots=True)
class Picked:
    """The samples that a request names.

    Attributes:
        ids: Their ids in the whole stream, each once, in the order they were named.
        who: Person -> the ids that the person asked for, where a file of requests names persons.
    """

    ids: list[int]
    who: dict[str, list[int]] = field(default_factory=dict)


def requested(run: RunDirectory, words: Sequence[str], where: Sequence[str], whole: Sequence[str]) -> Picked:
    """Return the samples of a run that a request names beside ``whole`` classes and experiences.

    Raises:
        UserError: If the conditions could be meant to narrow those down, too, or as `pick` says.
    """
    if where and whole:
        raise UserError(
            f"{' and '.join(where)} could narrow {whole[0]!r} down or be asked for as well: for both make two "
            "requests, for their common samples give the ids that "
            f"`clf list samples {run.path}` shows with these options."
        )
    return pick(Known.of(run), words, where)


def pick(known: Known, words: Sequence[str], conditions: Sequence[str] = ()) -> Picked:
    """Return the samples that words and conditions name; where both are given, those that both name.

    Args:
        known: The run's samples.
        words: Ids, places, paths, names, folders, patterns, or files of such words (see `request_file`).
        conditions: Each ``COLUMN=VALUE``.

    Raises:
        UserError: If a word names nothing or could be several samples, or nothing is left.
    """
    picked, who = dict[int, None](), defaultdict[str, dict[int, None]](dict)
    for word in words:
        for requester, ids in _asked(known, word):
            picked |= dict.fromkeys(ids)
            if requester:
                who[requester] |= dict.fromkeys(ids)
    if conditions:
        rows = {s.id: None for s in known.where(conditions)}
        picked = {i: None for i in (picked if words else rows) if i in rows}
        if not picked:
            raise UserError(f"No sample that --samples names has {' and '.join(conditions)}; give one of the two.")
    return Picked(list(picked), {name: [i for i in ids if i in picked] for name, ids in who.items()})


def _asked(known: Known, word: str) -> Iterator[tuple[str, list[int]]]:
    """Yield who asks, if that is said, and for which samples: those of a word, or of each line of a file it names."""
    file = Path(word).expanduser()
    try:
        yield "", known.ids(word)
        return
    except UserError:
        if known.examines(word) or not file.is_file():
            raise
    for line in request_file.read_requests(file, known.lists):
        try:
            ids = [i for each in line.words for i in known.ids(each)]
            rows = {s.id: None for s in known.where(line.where)} if line.where else {}
        except UserError as error:
            raise UserError(f"{line.place}: {error}") from error
        yield line.requester, [i for i in (ids if line.words else rows) if not line.where or i in rows]

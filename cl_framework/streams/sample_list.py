"""The list of a run's samples: place, class, experience and hash of the content of each.

A run keeps the list beside its events, so that it knows what it met without the data. A forget request deletes its
samples from the list: only a row of the class stays, and a keyed hash by which the run's key finds the sample again
while it is still in the data. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from cl_framework.streams.identifiers import KEYED, keyed_digest

if TYPE_CHECKING:
    pass

Split: TypeAlias = Literal["train", "test"]

_SPLITS: tuple[Split, Split] = ("train", "test")


class SplitRows(msgspec.Struct, kw_only=True):
    """The samples of one split, row by row, in the order of the stream's data.

    Attributes:
        split: The split of the source that they come from; both may be ``train`` where a share of it is the exam.
        ids: Id of each within its source and split.
        labels: Index of its class in the source's class names.
        places: Place: a path below the source's root, or a line of a table; empty for arrays. Of forgotten samples a
            keyed hash, or empty.
        digests: SHA-256 of its bytes; empty for forgotten samples.
        experiences: Index of the source's experience that brought it; -1 for none.
        columns: Further cells of its line in a table, by the column's name.
        gone: Rows that were forgotten.
        content: Hash of the whole split, under which runs share features.
    """

    split: str
    ids: list[int]
    labels: list[int]
    places: list[str]
    digests: list[str]
    experiences: list[int] = []
    columns: list[dict[str, str]] = []
    gone: set[int] = set()
    content: str = ""


class ListedSource(msgspec.Struct, kw_only=True):
    """The samples of one data source: of the config's scenario, or of one learned later.

    Attributes:
        name: Name of the source in keys of features, without a path.
        spec: What opens it, with absolute paths.
        root: The folder that all places lie below; nothing where none is read.
        beside: The same, relative to the run's directory.
        former: The folder before it was moved.
        kind: What samples are: ``pictures`` or ``sentences``.
        files: Whether every sample is a file of its own.
        class_names: Name of each class; of forgotten classes a keyed hash.
        groups: The classes of each experience.
        experiences: Name of each experience.
        offset: What is added to ids to make them unique in the whole stream.
        as_new: Prefix of its class names in the whole stream.
        fingerprint: Hash of the data as a whole, when they were first used.
        train: Samples to learn from.
        test: Test samples.
    """

    name: str
    spec: str
    root: str
    kind: str
    files: bool
    class_names: list[str]
    groups: list[list[int]]
    fingerprint: str
    train: SplitRows
    test: SplitRows
    beside: str = ""
    former: list[str] = []
    experiences: list[str] = []
    offset: int = 0
    as_new: str = ""


class ListedSample(msgspec.Struct, frozen=True):
    """One sample.

    Attributes:
        source: Which stream of data it comes from: 0 for the config's, then those learned later.
        split: ``train``, or ``test`` for what the run is examined on.
        id: Its id in the whole stream, as receipts and ``--samples`` use it.
        place: A path below the source's root, or a line of a table; empty for arrays.
        class_name: Name of its class.
        experience: The experience that brought it; empty if none has.
        columns: Further cells of its line in a table.
        digest: SHA-256 of its bytes.
    """

    source: int
    split: Split
    id: int
    place: str
    class_name: str
    experience: str
    columns: dict[str, str]
    digest: str


def listed_samples(sources: Sequence[ListedSource | None]) -> list[ListedSample]:
    """Return every sample that is not forgotten, in the order of the data, training samples first."""
    samples: list[ListedSample] = []
    for number, source in enumerate(sources):
        if source is None:
            continue
        for split, rows in zip(_SPLITS, (source.train, source.test), strict=True):
            for i, (own, label) in enumerate(zip(rows.ids, rows.labels, strict=True)):
                if i in rows.gone:
                    continue
                at = rows.experiences[i] if rows.experiences else -1
                samples.append(
                    ListedSample(
                        number,
                        split,
                        own + source.offset,
                        rows.places[i],
                        source.as_new + source.class_names[label],
                        source.experiences[at] if at >= 0 else "",
                        rows.columns[i] if rows.columns else {},
                        rows.digests[i],
                    )
                )
    return samples


def forget_rows(source: ListedSource, ids: Collection[int], names: Collection[str], key: bytes | None) -> bool:
    """Delete training samples, and test samples and names of forgotten classes, from a source's rows.

    Args:
        source: Is changed.
        ids: Stream-wide ids of training samples.
        names: Names of forgotten classes.
        key: The run's key; without one no keyed hash is left to find a sample again.

    Returns:
        Whether anything was deleted.
    """
    vanished = {i for i, name in enumerate(source.class_names) if name in names}
    lost = [i for i, own in enumerate(source.train.ids) if own + source.offset in ids]
    exams = [i for i, label in enumerate(source.test.labels) if label in vanished]
    changed = False
    for rows, which in ((source.train, lost), (source.test, exams)):
        for i in which:
            if i not in rows.gone:
                changed = True
                rows.gone.add(i)
                rows.places[i] = hidden_name(key, "place", rows.places[i] if source.files else rows.digests[i])
                rows.digests[i] = ""
                if rows.columns:
                    rows.columns[i] = {}
    for i in vanished:
        changed = True
        source.class_names[i] = hidden_name(key, "class", source.class_names[i])
    return changed


def hidden_name(key: bytes | None, kind: str, name: str) -> str:
    """Return the keyed hash of a name; empty without a key.

    >>> hidden_name(b"k", "place", "cat/1.png").startswith("keyed:"), hidden_name(None, "place", "cat/1.png")
    (True, '')
    """
    return KEYED + keyed_digest(key, kind, name) if key else ""

"""`imagefolder:PATH`: a folder per class, under train/ and test/ or split here with a seed."""

from __future__ import annotations

from pathlib import Path

import torch

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import Loader
from scenarios.data import presence
from scenarios.data.source import Pictures, Source, check_share, stratified

LOADER = Loader("imagefolder", reads="folder", give="the one that holds train/ and test/, or a folder per class")
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".ppm",
        ".pgm",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
    ]  # as `read_image` reads
)
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev"),
}
"""Names of each split's folder, in any case."""
NO_CLASSES = frozenset(("__macosx", "@eadir", "$recycle.bin"))
"""Folders that archives and file servers leave beside those of classes."""


def load(path: str, test: float | None = None, seed: int = 0) -> Source:
    """List the images below ``path``; class ids follow the sorted names of the class folders.

    Files and folders whose names begin with a dot, and those of ``__MACOSX``, are ignored.

    Args:
        path: Holds train/ and test/ with a folder per class, or the class folders themselves. Without a test/, valid/
            (also val/, validation/, dev/) is the test set; beside a test/ it is left out. Upper and lower case are
            alike.
        test: Share of each class held out for testing, a fifth if None; only where there is no test folder.
        seed: Seed of that split.

    Raises:
        UserError: If a folder is missing or there twice, a class folder holds no images, the test split has a class
            that train/ lacks, or a share is to be held out of splits that are there.
    """
    root, name = Path(path).expanduser(), f"imagefolder:{path}"
    presence.check_present(LOADER, path)
    splits = split_folders(root)
    if not splits:
        by_class = _classes(root)
        files, labels = _listed(by_class, list(by_class))
        kept, held = (rows.tolist() for rows in stratified(torch.tensor(labels), test, seed))
        train, exam = (([files[i] for i in rows], [labels[i] for i in rows]) for rows in (kept, held))
        return Source(name, Pictures("train", *train), Pictures("test", *exam), tuple(by_class), said=False)
    first, second = splits["train"], splits.get("test") or splits["validation"]
    check_share(name, True, test)
    by_class, other = _classes(first), _classes(second, empty=True)
    if extra := sorted(other.keys() - by_class.keys()):
        close = did_you_mean(extra[0], by_class)
        near = f" {close}" if close.startswith("Did") else ""
        raise UserError(
            f"{second} has class {extra[0]!r}, which {first.name}/ lacks; add it there or remove it here.{near}"
        )
    train, exam = (_listed(each, list(by_class)) for each in (by_class, other))
    return Source(name, Pictures("train", *train), Pictures("test", *exam), tuple(by_class))


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of splits, by split; none if the folders of ``root`` are those of classes.

    A folder called train is a class, such as a vehicle's, if it holds no folders.

    Raises:
        UserError: If there are two for one split, or one of training and test is missing.
    """
    by_split: dict[str, Path] = {}
    inside = folders(root)
    for split, names in _SPLITS.items():
        some = [f for f in inside if f.name.lower() in names]
        if len(some) > 1:
            raise UserError(f"{root} has {some[0].name}/ and {some[1].name}/; keep one of them.")
        if some:
            by_split[split] = some[0]
    if "train" in by_split and folders(by_split["train"]):
        if len(by_split) == 1:
            raise UserError(
                f"{root} has {' and '.join(f'{f.name}/' for f in inside[:5])} but no test/; add test/ with the same "
                f"class folders, or hold out a fifth of imagefolder:{by_split['train']}."
            )
        return by_split
    if by_split and "train" not in by_split and len(by_split) == len(inside) and any(map(folders, by_split.values())):
        raise UserError(f"{root} has {inside[0].name}/ but no train/; add train/ with the same class folders.")
    return {}


def _classes(folder: Path, empty: bool = False) -> dict[str, list[Path]]:
    """Return the images of every class folder, both sorted.

    Args:
        folder: Holds a folder per class.
        empty: Leave out folders without images.

    Raises:
        UserError: If there is no class folder, or one holds no images or is itself a data set.
    """
    by_class = {}
    inside = folders(folder)
    for each in inside:
        _check_class(each, len(inside) == 1)
        by_class[each.name] = sorted(
            p for p in each.rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p, each)
        )
        if by_class[each.name]:
            continue
        if not empty:
            others = sorted({p.suffix for p in each.rglob("*") if p.is_file() and not _hidden(p, each)})
            only = f" (only {', '.join(others[:5])})" if others else ""
            raise UserError(
                f"Class {each.name!r} is empty: {each} holds no images{only}; add some or remove the folder."
            )
        del by_class[each.name]
    if not by_class:
        raise UserError(f"{folder} holds no class folders; put the images of each class in a folder of its own.")
    return by_class


def _check_class(folder: Path, only: bool) -> None:
    """Refuse a folder of class folders: all its images would become one class.

    Args:
        folder: The one in place of a class.
        only: Whether there is no other.

    Raises:
        UserError: If it holds train/ with folders, or is the only one and holds nothing but folders.
    """
    inside = folders(folder)
    splits = [f for f in inside if f.name.lower() in _SPLITS["train"]]
    if any(map(folders, splits)) or (only and inside and not any(p.is_file() for p in _shown(folder))):
        names = ", ".join(f"{f.name}/" for f in inside[:3]) + (", ..." if len(inside) > 3 else "")
        raise UserError(f"{folder} is no class, as it holds {names}; give imagefolder:{folder}.")


def _shown(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if not p.name.startswith(".")]


def folders(parent: Path) -> list[Path]:
    """Return the folders that may be those of classes, sorted."""
    return sorted(
        f for f in parent.iterdir() if f.is_dir() and not f.name.startswith(".") and f.name.lower() not in NO_CLASSES
    )


def _hidden(file: Path, below: Path) -> bool:
    """Tell whether a file or a folder on the way to it is no data."""
    return any(p.startswith(".") or p.lower() in NO_CLASSES for p in file.relative_to(below).parts)


def _listed(by_class: dict[str, list[Path]], names: list[str]) -> tuple[list[Path], list[int]]:
    """Return every image of ``by_class`` and its label, the place of its class in ``names``."""
    return [p for c in by_class for p in by_class[c]], [names.index(c) for c in by_class for _ in by_class[c]]

"""`imagefolder:PATH`: a folder per class, under train/ and test/ or split here with a seed."""

from __future__ import annotations

from pathlib import Path

import torch

from cl_framework.errors import UserError
from scenarios.data.source import Pictures, Source, check_share, stratified

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"))


def load(path: str, test: float | None = None, seed: int = 0) -> Source:
    """List the images below ``path``; class ids follow the sorted names of the class folders.

    Args:
        path: Holds train/ and test/ (or val/) with a folder per class, or the class folders themselves.
        test: Share of each class held out for testing, a fifth if None; only where there is no test folder.
        seed: Seed of that split.

    Raises:
        UserError: If a folder is missing, a class folder holds no images, the splits differ in their classes, or a
            share is to be held out of splits that are there.
    """
    root, name = Path(path).expanduser(), f"imagefolder:{path}"
    if not root.is_dir():
        raise UserError(f"There is no folder {path}; give the one that holds train/ and test/, or a folder per class.")
    if not (root / "train").is_dir():
        found = classes(root)
        files, labels = listed(found, list(found))
        kept, held = (rows.tolist() for rows in stratified(torch.tensor(labels), test, seed, list(found)))
        train, exam = (([files[i] for i in rows], [labels[i] for i in rows]) for rows in (kept, held))
        return Source(name, Pictures("train", *train), Pictures("test", *exam), tuple(found))
    second = next((root / s for s in ("test", "val") if (root / s).is_dir()), None)
    if second is None:
        raise UserError(f"{path} has train/ but no test/; add test/ with the same class folders.")
    check_share(name, True, test)
    found, other = classes(root / "train"), classes(second)
    if extra := sorted(other.keys() - found.keys()):
        raise UserError(f"{second} has class {extra[0]!r}, which train/ lacks; add it there or remove it here.")
    train, exam = (listed(each, list(found)) for each in (found, other))
    return Source(name, Pictures("train", *train), Pictures("test", *exam), tuple(found))


def classes(folder: Path) -> dict[str, list[Path]]:
    """Return the images of every class folder, both sorted; hidden folders are left out."""
    found = {}
    for each in sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")):
        found[each.name] = sorted(p for p in each.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found[each.name]:
            raise UserError(f"Class {each.name!r} is empty: {each} holds no images; add some or remove the folder.")
    if not found:
        raise UserError(f"{folder} holds no class folders; put the images of each class in a folder of its own.")
    return found


def listed(found: dict[str, list[Path]], names: list[str]) -> tuple[list[Path], list[int]]:
    """Return every image of ``found`` and its label, the place of its class in ``names``."""
    return [p for c in found for p in found[c]], [names.index(c) for c in found for _ in found[c]]

"""Hash of source files, independent of where they are installed and in which order they are found."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path


def source_digest(files: Mapping[str, Path]) -> str:
    """Return one SHA-256 over the names and contents of files, in order of their names.

    Args:
        files: By name, such as ``cl_framework/engine/loop.py``: a path within the package, never an absolute one.
    """
    sha = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].read_bytes()).hexdigest()
        sha.update(f"{name}\0{content}\n".encode())
    return sha.hexdigest()


def package(name: str) -> dict[str, Path]:
    """Return the source files of an imported package, or of a single module, by path within it."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return {}
    path = Path(file)
    if path.name != "__init__.py":
        return {f"{name.replace('.', '/')}.py": path}
    inside = ((p.relative_to(path.parent).as_posix(), p) for p in path.parent.rglob("*.py"))
    return {f"{name.replace('.', '/')}/{place}": p for place, p in inside}


def sources_of(kinds: Iterable[type], packages: Iterable[str] = ("cl_framework",)) -> dict[str, Path]:
    """Return the source files of whole ``packages`` and of the modules that define ``kinds``."""
    names = dict.fromkeys([*packages, *(kind.__module__ for kind in kinds)])
    return {place: file for name in names for place, file in package(name).items()}

"""Moved data and weights of a run: ``--relocate OLD=NEW``, stored in the run.

A run stores absolute paths, and the paths of its data relative to the run. If both are moved together no option is
needed; otherwise paths that begin with OLD are read as if they began with NEW. Needs no torch.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage import files
from cl_framework.storage.files import unseal
from cl_framework.streams.sample_list import ListedSource

MOVES_FILE = "relocated.json"
Moves: TypeAlias = Sequence[tuple[str, str]]
"""Old and new beginnings of paths, in order."""


class _MovesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the file of moves."""

    moves: list[tuple[str, str]] = []


def read_moves(run: Path) -> Moves:
    """Return the moves that a run has stored.

    Raises:
        UserError: If the file was edited.
    """
    return unseal(run / MOVES_FILE, _MovesFile).moves if (run / MOVES_FILE).exists() else []


def keep(run: Path, asked: Sequence[str]) -> None:
    """Add moves to those of a run.

    Args:
        run: The run directory, locked by the caller.
        asked: Each ``OLD=NEW``.

    Raises:
        UserError: If one is written in another way, or its NEW is not there.
    """
    moves = [*read_moves(run), *map(parse_move, asked)]
    files.replace(run / MOVES_FILE, files.seal({"moves": moves}))


def parse_move(asked: str) -> tuple[str, str]:
    """Read ``OLD=NEW``; both become absolute.

    Raises:
        UserError: If it is written in another way, or NEW is not there.
    """
    old, is_, new = asked.partition("=")
    if not (is_ and old.strip() and new.strip()):
        raise UserError(f"--relocate takes OLD=NEW, such as /old/data=/new/data, found {asked!r}.")
    before, now = (os.path.normpath(Path(p.strip()).expanduser().absolute()) for p in (old, new))
    if not os.path.exists(now):
        raise UserError(f"There is no {now} to read in place of {before}; give the folder or file as it is now.")
    return before, now


def rewritten(node: Any, moves: Moves) -> Any:
    """Return a value with every moved path replaced; lists and mappings are searched.

    >>> rewritten({"dataset": "imagefolder:/old/pets:test=0.3", "name": "/older"}, [("/old", "/new")])
    {'dataset': 'imagefolder:/new/pets:test=0.3', 'name': '/older'}
    """
    if isinstance(node, str):
        for old, new in moves:
            node = re.sub(rf"(^|[:=\"']){re.escape(old)}(?=$|[/:,\"'])", lambda m, new=new: m[1] + new, node)  # type: ignore[misc]
        return node
    if isinstance(node, list):
        return [rewritten(each, moves) for each in node]
    if isinstance(node, Mapping):
        return {key: rewritten(value, moves) for key, value in node.items()}
    return node


@contextmanager
def config_of(run: Path, moves: Moves) -> Iterator[str]:
    """Yield the path of a run's config, with paths as they are now."""
    file = run / "config.yaml"
    if not moves:
        yield str(file)
        return
    import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

    config = rewritten(yaml.safe_load(file.read_text(encoding="utf-8")), moves)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as other:
        yaml.safe_dump(config, other, sort_keys=False, allow_unicode=True)
        other.flush()
        yield other.name


def relocate(source: ListedSource, run: Path, moves: Moves) -> ListedSource:
    """Return a source of a run's list with paths as they are now.

    Args:
        source: As the list tells it.
        run: The run directory: data that are gone from where they were may still lie beside it as they did.
        moves: The moves.
    """
    root = source.root
    if not root:
        return source
    now = str(rewritten(root, moves))
    if not Path(now).exists() and source.beside and (moved := Path(run.absolute(), source.beside)).exists():
        now = os.path.normpath(moved)
    if now == root:
        return source
    former = [*dict.fromkeys([*source.former, root])]
    return msgspec.structs.replace(source, root=now, spec=rewritten(source.spec, [(root, now)]), former=former)


def note_relative(source: ListedSource, run: Path) -> None:
    """Note where a source lies as seen from the run, if it is there."""
    if source.root and Path(source.root).exists():
        source.beside = os.path.relpath(source.root, run.absolute())


def absolute(config: str) -> str:
    r"""Return a config, as YAML, in which files of weights and of groups are named by absolute paths.

    >>> absolute("model: {backbone: {weights: /w.pth}}")
    'model: {backbone: {weights: /w.pth}}'
    """
    import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are optional

    settings = yaml.safe_load(config)
    changed = _absolute(settings, "")
    return config if changed == settings else str(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))


NAMED = {"backbone", "weights", "groups"}
"""Settings below which a text that names a file or folder is one."""


def _absolute(node: Any, below: str) -> Any:
    if isinstance(node, Mapping):
        return {key: _absolute(value, key if key in NAMED else below) for key, value in node.items()}
    if isinstance(node, list):
        return [_absolute(each, below) for each in node]
    named = below and isinstance(node, str) and (os.sep in node or Path(node).suffix)
    return str(Path(node).expanduser().absolute()) if named and Path(node).expanduser().exists() else node

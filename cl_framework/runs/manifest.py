"""What a run directory says of itself first of all: which layout it has, and what it was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage.typed_records import RESTORE, Digest, FileEntry, decode_json, typed

SCHEMA = 4
MANIFEST = "manifest.json"


class _Schema(msgspec.Struct, frozen=True):
    schema: int


class Manifest(msgspec.Struct, frozen=True):
    """What every run's ``manifest.json`` holds, whatever else its maker wrote there.

    Attributes:
        schema: Version of the layout.
        config: Hash and size of the resolved config.
        key: What tells the run's key from others.
    """

    schema: int
    config: FileEntry
    key: Digest


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of the run at ``path`` as it stands; its hash is not checked.

    Raises:
        UserError: If there is none, it cannot be read, or another version of this program wrote it.
    """
    file = path / MANIFEST
    if not file.is_file():
        what = f"{path} is not a run: it has no {MANIFEST}" if path.exists() else f"There is no run at {path}"
        raise UserError(f"{what}; `clf run --config FILE --run_dir DIR` starts one.")
    try:
        found = decode_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read as a manifest; {RESTORE}.") from error
    schema = typed(found, _Schema, file).schema
    if schema < SCHEMA:
        what = f"was made by an older version (schema {schema}, now {SCHEMA})"
        raise UserError(f"{path} {what}; run its config again.")
    if schema > SCHEMA:
        raise UserError(f"{path} has schema {schema} and this version knows {SCHEMA}; upgrade cl-framework.")
    typed(found, Manifest, file)
    told: dict[str, Any] = found
    return told

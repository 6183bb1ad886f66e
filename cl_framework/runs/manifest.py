"""The manifest of a run: version of the layout, and what the run was started with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage.typed_records import RESTORE, Count, Digest, FileEntry, decode_json, typed

SCHEMA = 4
MANIFEST = "manifest.json"


class _Schema(msgspec.Struct, frozen=True):
    schema: int


class Weights(msgspec.Struct, frozen=True):
    """The backbone that a run was made with."""

    name: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a run's ``manifest.json`` holds; the first three fields are in every one.

    Attributes:
        schema: Version of the layout.
        config: Hash and size of the resolved config.
        key: Fingerprint of the run's key.
        sha256: Hash of all the rest.
        versions: Of Python and of packages that decide numbers.
        platform: The machine.
        backbone: The frozen weights.
        data: Fingerprint of the data of the config's scenario.
        seed: The run's seed.
        threads: CPU threads that it was started with.
        trial: The debugging option that it was made with, if any: its numbers are no result.
    """

    schema: int
    config: FileEntry
    key: Digest
    sha256: str = ""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    platform: str = ""
    backbone: Weights | None = None
    data: str | None = None
    seed: int | None = None
    threads: Count | None = None
    trial: str | None = None


class ExperimentOrigin(msgspec.Struct, frozen=True):
    """The part of a manifest without which no experiment can be built again."""

    backbone: Weights
    data: str


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the run at ``path``; its hash is not checked.

    Raises:
        UserError: If there is none, it cannot be read, or another version of this program wrote it.
    """
    file = path / MANIFEST
    if not file.is_file():
        problem = f"{path} is not a run: it has no {MANIFEST}" if path.exists() else f"There is no run at {path}"
        raise UserError(f"{problem}; `clf run --config FILE --run_dir DIR` starts one.")
    try:
        content = decode_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read as a manifest; {RESTORE}.") from error
    schema = typed(content, _Schema, file).schema
    if schema < SCHEMA:
        problem = f"was made by an older version (schema {schema}, now {SCHEMA})"
        raise UserError(f"{path} {problem}; run its config again.")
    if schema > SCHEMA:
        raise UserError(f"{path} has schema {schema} and this version knows {SCHEMA}; upgrade cl-framework.")
    return typed(content, Manifest, file)

"""Verify a run: every file, receipt and signature. Needs no torch."""

from __future__ import annotations

from cl_framework.runs import receipts
from cl_framework.runs.directory import RunDirectory


def problems(run: RunDirectory, last: str | None = None, public: str | None = None) -> list[str]:
    """Return every problem of a run; nothing when all hashes match.

    Args:
        run: The run.
        last: Hash of a receipt that must be there; an older copy of the run lacks it.
        public: File of an Ed25519 public key to check signatures against.

    Raises:
        UserError: If the key cannot be read.
    """
    problems = run.verify()
    if last is not None:  # an empty one too, as an unset variable of a shell leaves it
        problems += receipts.missing_line(run.path, last)
    if public and not problems:
        from cl_framework.runs import signatures

        problems = signatures.signature_problems(run.path, public)
    return problems

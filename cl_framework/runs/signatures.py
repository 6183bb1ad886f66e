"""Ed25519 signatures of receipts. Needs the ``cryptography`` package, and only when something is signed or checked."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from cl_framework.errors import UserError, extras
from cl_framework.runs import receipts
from cl_framework.runs.receipts import Line
from cl_framework.storage.envelopes import Signature
from cl_framework.storage.files import sha256

Sign: TypeAlias = Callable[[bytes], Signature]
"""Function from signed bytes to the signature."""

MAKE = "`openssl genpkey -algorithm ed25519 -out KEY.pem` makes one"


def signer(path: str | Path) -> Sign:
    """Return the signer for the private key in a PEM file; the key's id is the SHA-256 of its public key in DER.

    Raises:
        UserError: If ``cryptography`` is missing, or the file holds no Ed25519 private key without a password.
    """
    serialization, ed25519, _ = _cryptography()
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} holds no private key that can be read without a password; {MAKE}.") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserError(f"{path} holds another kind of key than Ed25519; {MAKE}.")

    public, form = key.public_key(), serialization.PublicFormat.SubjectPublicKeyInfo
    keyid = sha256(public.public_bytes(serialization.Encoding.DER, form))

    def sign(data: bytes) -> Signature:
        return Signature(base64.b64encode(key.sign(data)).decode(), keyid)

    return sign


def signature_problems(run: Path, public: str | Path) -> list[str]:
    """Return the problems of the signatures of a run whose chain of receipts is intact.

    A signed line holds the hash of the line before it, so it covers all lines up to it; lines after the last signed one
    are not covered.

    Args:
        run: The run directory.
        public: A PEM file with the public key.

    Raises:
        UserError: If ``cryptography`` is missing, or the file holds no Ed25519 public key.
    """
    serialization, ed25519, invalid = _cryptography()
    how = "`openssl pkey -in KEY.pem -pubout -out PUB.pem` makes one from the private key"
    try:
        key = serialization.load_pem_public_key(_read(public))
    except ValueError as error:
        raise UserError(f"{public} holds no public key; {how}.") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UserError(f"{public} holds another kind of key than Ed25519; {how}.")
    file, wrong, covered = run / receipts.FILE, list[str](), 0
    lines = receipts.whole(run)
    for number, line in enumerate(lines, 1):
        if (signatures := _signatures(line)) is None:
            continue
        covered = number
        if not any(_holds(key, signature, line.signed, invalid) for signature in signatures):
            wrong.append(f"{file} line {number} was not signed with the key that belongs to {public}")
    if covered < len(lines):
        wrong.append(f"{file} line {covered + 1} and what follows is not signed; `clf forget DIR --sign` signs.")
    return wrong


def _signatures(line: Line) -> list[Signature | str] | None:
    """Return the signatures of a line, in hexadecimal where an earlier version wrote it; None where it has none."""
    if line.signatures is None:
        return [line.receipt.signature] if line.receipt.signature is not None else None
    return list(line.signatures) or None


def _holds(key: Any, signature: Signature | str, signed: bytes, invalid: type[Exception]) -> bool:
    try:
        key.verify(bytes.fromhex(signature) if isinstance(signature, str) else signature.raw, signed)
    except (invalid, ValueError, TypeError):
        return False
    return True


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a PEM file with an Ed25519 key.") from error


def _cryptography() -> tuple[Any, Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise extras.missing_extra("Signatures need `cryptography`", "sign") from error
    return serialization, ed25519, InvalidSignature

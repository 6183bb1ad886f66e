"""DSSE envelopes of canonical JSON: a signature covers plain bytes, so that any tool can check it.

DSSE v1.0: https://github.com/secure-systems-lab/dsse. Canonical JSON: RFC 8785 (JCS). Needs no torch.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import rfc8785

from cl_framework.errors import UserError
from cl_framework.storage.files import seal
from cl_framework.storage.typed_records import RESTORE, decode_json, typed


class Signature(msgspec.Struct, frozen=True):
    """One signature of an envelope.

    Attributes:
        sig: The signature in base64.
        keyid: A hint which key made it; nothing relies on it.
    """

    sig: str
    keyid: str = ""

    @property
    def raw(self) -> bytes:
        """The bytes of the signature.

        Raises:
            ValueError: If it is not base64.
        """
        return from_base64(self.sig)


class Envelope(msgspec.Struct, frozen=True):
    """A DSSE envelope; fields beyond these are ignored, as the standard asks.

    Attributes:
        payload: The signed content in base64.
        payload_type: Media type of the content.
        signatures: None for a content that is not signed.
    """

    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[Signature, ...]

    @property
    def body(self) -> bytes:
        """The content.

        Raises:
            ValueError: If the payload is not base64.
        """
        return from_base64(self.payload)


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return ``record`` as canonical JSON: equal records give equal bytes, in any language.

    >>> canonical({"b": 1.0, "a": None})
    b'{"a":null,"b":1}'

    Raises:
        UserError: If a number is not finite or a whole number exceeds 2^53 - 1, which JSON does not carry exactly.
    """
    try:
        return rfc8785.dumps(msgspec.to_builtins(record))
    except rfc8785.CanonicalizationError as error:
        raise UserError(
            f"A receipt cannot hold this value ({error}); change the setting that it comes from."
        ) from error


def pae(payload_type: str, body: bytes) -> bytes:
    """Return what a signature signs, the standard's pre-authentication encoding.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def pack_envelope(body: bytes, payload_type: str, signatures: Sequence[Signature] = ()) -> bytes:
    """Return an envelope as one line that ends in a newline.

    Its field ``sha256`` is the hash of the line without it: an edit shows even where nothing is signed.
    """
    envelope = Envelope(base64.b64encode(body).decode(), payload_type, tuple(signatures))
    return seal(msgspec.to_builtins(envelope), indent=None)


def unpacked(record: Mapping[str, Any], payload_type: str, place: str) -> tuple[dict[str, Any], Envelope]:
    """Return the content of an envelope and the envelope; signatures are not checked.

    Args:
        record: The decoded line.
        payload_type: The type that the content must have.
        place: File and line, for the message.

    Raises:
        UserError: If a field is missing or of another type, or the payload is no canonical JSON object.
    """
    envelope = typed(record, Envelope, place)
    if envelope.payload_type != payload_type:
        raise UserError(f"{place} is damaged at payloadType: expected {payload_type}; {RESTORE}.")
    try:
        body = envelope.body
        content = decode_json(body)
        if not isinstance(content, dict) or rfc8785.dumps(content) != body:
            raise ValueError("it is no JSON object in canonical form")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is damaged at payload: {error}; {RESTORE}.") from error
    return content, envelope


def from_base64(text: str) -> bytes:
    """Return the bytes of standard or URL-safe base64.

    Raises:
        ValueError: If it is neither.
    """
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is not base64 ({error})") from error

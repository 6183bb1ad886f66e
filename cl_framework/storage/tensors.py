"""Tensors as bytes: packed without pickle, fingerprinted, and compared with what is stored.

Importing this module does not import torch; its functions do.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cl_framework.errors import UserError
from cl_framework.storage.typed_records import RESTORE, Count

if TYPE_CHECKING:
    from torch import Tensor

TYPES = {"torch.float32": "F32", "torch.float64": "F64", "torch.bfloat16": "BF16", "torch.int64": "I64"}
"""Names in safetensors of the types of features and ids."""
TORCH = {
    "BOOL": "torch.bool", "U8": "torch.uint8", "I8": "torch.int8", "I16": "torch.int16", "U16": "torch.uint16",
    "F16": "torch.float16", "BF16": "torch.bfloat16", "I32": "torch.int32", "U32": "torch.uint32",
    "F32": "torch.float32", "I64": "torch.int64", "U64": "torch.uint64", "F64": "torch.float64",
    "C64": "torch.complex64", "F8_E4M3": "torch.float8_e4m3fn", "F8_E5M2": "torch.float8_e5m2",
}  # fmt: skip
"""Names in torch of the types of safetensors."""
WIDTHS = {name: max(int("".join(filter(str.isdigit, name.partition("_")[0])) or 8) // 8, 1) for name in TORCH}
"""Bytes of a number of each type."""


class Span(msgspec.Struct, frozen=True):
    """A tensor in the header of a safetensors file.

    Attributes:
        dtype: Its type, as safetensors names it.
        shape: Its shape.
        data_offsets: Where its bytes begin and end, counted from the end of the header.
    """

    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return self.data_offsets[1] - self.data_offsets[0]


def fingerprint(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and bytes."""
    import torch

    sha = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fingerprints(data: bytes, place: Path | str = "The file") -> dict[str, str]:
    """Return the `fingerprint` of every tensor in the bytes of a safetensors file, read without torch.

    Raises:
        UserError: If the bytes are not exactly one tensor after the other and nothing else.
    """
    first, hashes, at = 8 + int.from_bytes(data[:8], "little"), dict[str, str](), 0
    for name, span in sorted(spans(data, place).items(), key=lambda item: (item[1].data_offsets, item[0])):
        start, end = span.data_offsets
        if start != at or span.dtype not in TORCH or span.bytes != math.prod(span.shape) * WIDTHS[span.dtype]:
            raise _unreadable(place, f"{name} is not where it belongs")
        sha = hashlib.sha256(f"{TORCH[span.dtype]}{span.shape}".encode())
        sha.update(memoryview(data)[first + start : first + end])
        hashes[name], at = sha.hexdigest(), end
    if first + at != len(data):
        raise _unreadable(place, "bytes are left over")
    return hashes


def spans(data: bytes, place: Path | str = "The file") -> dict[str, Span]:
    """Return the header of a safetensors file: a length, then JSON.

    Raises:
        UserError: If it is none, or a name stands there twice.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_once)
        return msgspec.convert(header, dict[str, Span])
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise _unreadable(place, error) from error


def _unreadable(place: Path | str, reason: object) -> UserError:
    return UserError(f"{place} holds no tensors that can be read ({reason}); {RESTORE}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return JSON's pairs as a dictionary; readers differ in which of two equal keys they take."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a name stands there twice")
    return unique


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return named tensors in safetensors format; the same tensors always make the same bytes."""
    from safetensors.torch import save

    # A clone of each: safetensors refuses tensors that share memory, and tied ones may.
    return save({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})


def packed(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return the same as `pack` does, for large tensors: parts of a file that are not copies."""
    import torch

    parts: list[bytes | memoryview] = []
    header, start = {}, 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        end = start + len(data)
        header[name] = {"dtype": TYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts, start = [*parts, data], end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return [len(head).to_bytes(8, "little"), head, *parts]


def mapped(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, read when they are looked at."""
    from safetensors.torch import load_file

    return load_file(path)


def unpack(data: bytes, place: Path | str = "The file") -> dict[str, Tensor]:
    """Return what `pack` packed, on the CPU.

    Args:
        data: The bytes.
        place: The file they are from, for the message.

    Raises:
        UserError: If they are no tensors in safetensors format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{place} holds no tensors that can be read ({error}); {RESTORE}.") from error

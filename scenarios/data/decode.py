"""Image and text files to samples; a file that cannot be read is named."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cl_framework.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
WHITE = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0, "F": 1.0}  # grey modes wider than a byte


def decode(path: Path) -> Tensor:
    """Read an image as ``(3, H, W)`` uint8; grey becomes three equal channels and transparency is dropped.

    Raises:
        UserError: If the file is missing, cannot be decoded, or holds NaN.
    """
    try:
        with Image.open(path) as image:
            white = WHITE.get(image.mode)
            if white is None:
                # Palettes with transparency go through RGBA, as Pillow asks.
                whole = image.convert("RGBA") if "transparency" in image.info else image
                return torch.from_numpy(np.array(whole.convert("RGB"))).movedim(-1, 0)
            grey = np.array(image, dtype=np.float32) / white
    except FileNotFoundError as e:
        raise UserError(f"The image {path} does not exist; restore it or take it out of the data.") from e
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as e:
        raise UserError(f"Cannot read the image {path} ({e}); replace it or take it out of the data.") from e
    if not np.isfinite(grey).all():
        raise UserError(f"The image {path} holds NaN or infinity; replace it or take it out of the data.")
    return torch.from_numpy((grey.clip(0, 1) * 255).round().astype(np.uint8)).expand(3, -1, -1)


def in_parallel(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return what ``call`` makes of each item, in order; Pillow decodes and resizes on as many cores as there are.

    >>> in_parallel(len, ["a", "bc"])
    [1, 2]
    """
    return list(_pool().map(call, items)) if len(items) > 1 else [call(i) for i in items]


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="decode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no threads


def sentence(path: Path) -> str:
    """Read a text file as one sentence, without the white space around it: lines stay lines, as in a table.

    Raises:
        UserError: If the file is missing, empty or not UTF-8.
    """
    try:
        found = text(path).strip()
    except OSError as e:
        raise UserError(f"Cannot read the text {path} ({e}); give a file that holds one sentence.") from e
    if not found or "\0" in found:
        what = "a NUL character" if found else "no text"
        raise UserError(f"{path} holds {what}; give a file that holds one sentence.")
    return found


def text(path: Path) -> str:
    """Read a file of UTF-8, with or without a byte order mark.

    Raises:
        UserError: If it is not UTF-8; the line is named.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line, byte = raw[: e.start].count(b"\n") + 1, e.object[e.start]
        raise UserError(f"{path}, line {line}: the byte 0x{byte:02X} is not UTF-8; save the file as UTF-8.") from e

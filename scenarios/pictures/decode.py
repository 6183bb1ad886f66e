"""Image and text files to samples; a file that cannot be read is named."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cl_framework.errors import UserError, extras
from cl_framework.storage import unfetched
from scenarios.pictures import pixels

T = TypeVar("T")
R = TypeVar("R")
HEIC = re.compile(rb"....ftyp(?:....)*(?:hei[cxms]|hev[cx])", re.DOTALL)
"""First bytes of a HEIC file; AVIF, which Pillow reads itself, has others."""
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of whole files."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `pixels.bound` refuses those
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # the picture is readable all the same


def read_image(path: Path) -> Tensor:
    """Read an image as ``(3, H, W)`` uint8; `pixels.three_channels` says what becomes of unusual ones.

    Raises:
        UserError: If the file is missing, cannot be decoded, has too many pixels, or holds NaN.
    """
    with _opened(path) as image:
        return pixels.three_channels(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file, of which only the header is read yet.

    Raises:
        UserError: If the file is missing, or is or turns out to be unreadable.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file, but a folder, a pipe or a device")  # its end may never come
        _know_heic(path)
        with Image.open(path) as image:
            pixels.bound(image)
            yield image
    except FileNotFoundError as e:
        raise UserError(f"The image {path} does not exist; restore it or take it out of the data.") from e
    except UserError:
        raise
    except Exception as e:  # damaged files raise many errors in Pillow
        why = _why(e, path)
        raise UserError(f"Cannot read the image {path} ({why}); replace it or take it out of the data.") from e


def _why(error: Exception, path: Path) -> str:
    """Return why an image cannot be read, without its path."""
    if not isinstance(error, OSError) and not str(error):
        return type(error).__name__
    if path.is_file() and not path.stat().st_size:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return unfetched(path) or "no image of a kind that is read"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def glance(path: Path) -> None:
    """Check at little cost that an image can be read: its header and its end.

    A JPEG or PNG that does not end as it should may still be whole; it is then decoded to check. So is an image of
    floats or of signed numbers, whose range decides whether it is one.

    Raises:
        UserError: If it cannot.
    """
    with _opened(path) as image:
        if image.mode in pixels.RANGED:
            pixels.three_channels(image)
            return
        end = _END_MARKERS.get(image.format or "", b"")
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
            if end in file.read():
                return
        image.load()


def _know_heic(path: Path) -> None:
    """Register HEIC with Pillow for a file of that kind.

    Raises:
        UserError: If the package for it is not installed.
    """
    with path.open("rb") as file:
        if not HEIC.match(file.read(40)):
            return
    try:
        from pillow_heif import register_heif_opener
    except ImportError as e:
        raise extras.missing_extra(f"{path} is a HEIC image, which needs a decoder; save it as JPEG", "heic") from e
    register_heif_opener()


def in_parallel(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``call`` of each item, in order; Pillow decodes and resizes on as many cores as there are.

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


def read_sentence(path: Path) -> str:
    """Read a text file as one sentence, without the white space around it: lines stay lines, as in a table.

    Raises:
        UserError: If the file is missing, empty or not UTF-8.
    """
    try:
        sentence = text(path).strip()
    except OSError as e:
        raise UserError(f"Cannot read the text {path} ({e}); give a file that holds one sentence.") from e
    if not sentence or "\0" in sentence:
        content = "a NUL character" if sentence else "no text"
        raise UserError(f"{path} holds {content}; give a file that holds one sentence.")
    return sentence


def text(path: Path) -> str:
    """Read a file of UTF-8, with or without a byte order mark.

    Raises:
        UserError: If it is not UTF-8; the line is named.
    """
    if unfit := unfetched(path):
        raise UserError(f"{path} is {unfit}.")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line, byte = raw[: e.start].count(b"\n") + 1, e.object[e.start]
        raise UserError(f"{path}, line {line}: the byte 0x{byte:02X} is not UTF-8; save the file as UTF-8.") from e

"""Locks on files, which the system releases when a process dies."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_framework.errors import UserError
from cl_framework.storage.files import refuse_link

NONE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Error numbers of file systems without locks."""
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
"""Error numbers where another process has the lock."""


@contextmanager
def locked(path: Path, wait: bool = True, remedy: str = "put it on a local disk") -> Iterator[int]:
    """Hold the lock of the file at ``path``, made if it is not there, while the block runs.

    Args:
        path: The file.
        wait: Whether to wait for another process that holds it.
        remedy: What to do about a file system without locks.

    Yields:
        The open file's number.

    Raises:
        BlockingIOError: If another process holds it, and ``wait`` is off.
        UserError: If the path is a link or no file, or the file system has no locks.
        OSError: If the file cannot be opened.
    """
    import fcntl

    refuse_link(path)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"{path} is no file; remove it, for a lock belongs there.")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _HELD:
                raise BlockingIOError(error.errno, error.strerror) from error
            if error.errno in NONE:
                problem = f"The file system of {path.parent} has no locks ({error.strerror})"
                raise UserError(f"{problem}, so two processes could write at once: {remedy}.") from error
            raise
        yield handle
    finally:
        os.close(handle)


def holder(path: Path) -> str:
    """Return the process named in a lock file."""
    content = path.read_bytes()[:32].decode(errors="replace").strip()
    return f"process {content}" if content.isdecimal() else "another process"


def sign_in(handle: int) -> None:
    """Write this process's number into an open lock file, unless the file has other hard links."""
    if os.fstat(handle).st_nlink == 1:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

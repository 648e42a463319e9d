"""Locks that admit one process to a piece of work: POSIX locks on a file's bytes, released when the process ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.core.errors import LockedError

LOCK = "lock"  # the file, in the folder that it guards


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Lock the work folder `path` until the block or the process ends, even if the process is killed.

    The folder is created if it does not exist; the block may remove it.

    Args:
        what: completes the message "another process is … in <path>".

    Raises:
        LockedError: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("a+b") as file:
        if not try_lock(file):
            raise LockedError(f"another process is {what} in {path}; wait until it ends, then run this again")
        yield


def try_lock(file: IO[bytes], start: int = 0, length: int = 0) -> bool:
    """Try to lock `length` bytes from `start` (length 0: to the end); return whether this process now holds the lock.

    POSIX locks on overlapping ranges of bytes exclude each other. They end when the process ends or closes the file.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: held by another process
        return False
    return True

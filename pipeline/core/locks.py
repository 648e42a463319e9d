"""One process at a time at the same work: locks on a file's bytes, which end with the process that holds them."""

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
    """Hold the work folder `path`, made if need be, until the block ends or the process does, however it dies.

    The block may remove the folder. `what` completes "another process is … in <path>".

    Raises:
        LockedError: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("a+b") as file:
        if not try_lock(file):
            raise LockedError(f"another process is {what} in {path}; wait until it ends, then run this again")
        yield


def try_lock(file: IO[bytes], start: int = 0, length: int = 0) -> bool:
    """Whether `length` bytes from `start` (0: all that follow) are this process's now, and no other's.

    POSIX locks on ranges of bytes: ranges that overlap exclude each other, and all end when the process does or
    closes the file.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: held by another process
        return False
    return True

"""Folders that are computed once for all processes of a test run: others read them, or copy what they change."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

_root = Path()


def begin(factory: pytest.TempPathFactory) -> None:
    """Called once a process, before its first test: pytest removes what older runs left."""
    global _root
    base = factory.getbasetemp()
    _root = (base.parent if base.name.startswith("popen-") else base) / "shared"  # the workers of xdist have one parent
    _root.mkdir(exist_ok=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` after `make(folder)`, which runs in the process that asks first; the others wait for it."""
    folder = _root / name
    with (_root / f"{name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lock.seek(0, os.SEEK_END):  # where it ends now, not when it was opened
            make(folder)
            lock.write("made")
    return folder

"""Files that appear whole or not at all: written under a temporary name, then renamed.

Existing files are replaced, never edited: an output may be a hard link into DVC's cache, and writing through the link
would change the cached file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"  # ending of a file that is still being written; hidden by a leading dot as well


def printable(path: Path | str) -> str:
    """`path` as text for any file or terminal: bytes of a name that are not UTF-8 are escaped (`\\xe9`)."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def existing(path: Path) -> Path:
    """`path`, or the nearest parent folder that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def can_rename(source: Path, target: Path) -> bool:
    """Whether both paths, which need not exist yet, are on one file system, as renaming requires."""
    return existing(source).stat().st_dev == existing(target).stat().st_dev


def part_path(path: Path) -> Path:
    """The temporary name under which `path` is written."""
    return path.with_name(f".{path.name}{PART}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` in one step when the block ends without an error."""
    part = part_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that it exists completely or not at all."""
    with whole_file(path) as part:
        part.write_bytes(content)

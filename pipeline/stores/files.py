"""Files of a store: checksums, memory maps for reading, and the error for a full disk."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import PipelineError, StoreError

Verify = Literal["lazy", "never"]  # when a file is compared with its checksum: at its first use, or never
PIECE = 1 << 22  # bytes for one call of the checksum, during which it holds the interpreter's lock


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and CRC-32C (eight hexadecimal digits) of a file."""

    bytes: int
    crc32c: str


class Crc32c:
    """Running CRC-32C (Castagnoli, RFC 3720) over arrays and bytes."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, data: NDArray[np.generic] | bytes) -> None:
        """Continue with `data` (C-contiguous when an array)."""
        octets = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
        octets = octets.view()
        octets.flags.writeable = False  # the extension takes read-only buffers alone
        for start in range(0, octets.size, PIECE):
            self.value = google_crc32c.extend(self.value, octets[start : start + PIECE])

    @property
    def hex(self) -> str:
        return f"{self.value:08x}"


def map_file(path: Path) -> NDArray[np.uint8]:
    """The file's bytes, (n,), read-only and memory-mapped: pages are read on first use."""
    mapped = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    return mapped.view(np.ndarray)  # plain arrays are sliced several times faster than np.memmap


def read_ahead(path: Path) -> None:
    """Ask the kernel to read the whole file into the page cache, in order, without waiting for it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.madvise(mmap.MADV_WILLNEED)


def record_of(path: Path) -> FileRecord:
    """Size and checksum of the file on disk."""
    mapped, crc = map_file(path), Crc32c()
    crc.add(mapped)
    return FileRecord(mapped.size, crc.hex)


@contextmanager
def disk_errors(place: Path | str, goes_on: str = "with the shards that are missing") -> Iterator[None]:
    """Turn "no space left" and similar errors inside the block into a StoreError about the directory `place`.

    Args:
        goes_on: completes the message "run the same command again: it goes on …".
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, PipelineError) or not _means_full(error):
            raise
        raise StoreError(
            f"the disk that holds {place} is full; free some space, then run the same command again: it goes on "
            f"{goes_on}"
        ) from error


def _means_full(error: OSError) -> bool:
    # HDF5 reports the errno of a failed write in its text, not always in the attribute
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.errno in full or any(os.strerror(code) in str(error) for code in full)

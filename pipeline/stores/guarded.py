"""A file object through which HDF5 survives a full disk."""

from __future__ import annotations

from pathlib import Path


class GuardedFile:
    """A binary file for h5py's file-object driver that records the first failed write and reports success to HDF5.

    After a failed write, the HDF5 library keeps dirty buffers: it cannot close the file, and crashes when the process
    ends. So the library never sees the error; `check` raises it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def write(self, data: memoryview) -> int:
        written = 0
        try:
            while written < len(data) and self._error is None:
                written += self._file.write(data[written:]) or 0
        except OSError as error:
            self._error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:  # h5py recognises a file object by this method
        return self._file.read(size)

    def readinto(self, data: memoryview) -> int:
        return self._file.readinto(data) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def flush(self) -> None:
        """Nothing is buffered here."""

    def check(self) -> None:
        """Raises OSError when a write has failed since the file was opened."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._file.close()

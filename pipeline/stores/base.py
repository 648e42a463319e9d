"""The contract of a feature store: one layer of one backbone, a row for each view, read at memory speed."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import StoreError
from pipeline.core.sources import FeatureShape, Source
from pipeline.stores.codecs import Codec, codec
from pipeline.stores.encoding import decode
from pipeline.stores.files import FileRecord, Verify, map_file, read_ahead, record_of
from pipeline.stores.layout import Array
from pipeline.stores.manifest import Manifest, remedy


@dataclass(frozen=True)
class Chunks:
    """One array of one shard: the mapped file, with the byte offset and size of each row."""

    file: NDArray[np.uint8]
    offsets: list[int]
    sizes: list[int]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        start = self.offsets[row]
        return self.file[start : start + self.sizes[row]]


class FeatureStore(ABC):
    """A finished store, opened for reading by `pipeline.stores.opening.open_store`.

    A pickle (for worker processes of any start method) holds the path and the fingerprint. Unpickling opens the store
    again and raises StoreError if the path now holds another store.

    Attributes:
        path: the store's directory. source: the layer it holds. rows: their number.
        shape: channels, height, width of a row. dtype: float32, float16, bfloat16 or int8.
        mean, std: (C,) float64 over the training rows.
        reopen: `open_store`, set by it, because its module imports this one.
    """

    reopen: Callable[..., FeatureStore]

    def __init__(self, path: Path, manifest: Manifest, verify: Verify) -> None:
        self.path, self.manifest, self.layout = path, manifest, manifest.layout
        self._verify = verify
        self._codec = codec(self.layout.compression, self.layout.stored)
        self._opened: dict[tuple[Array, int], Chunks] = {}
        self._locks = [threading.Lock() for _ in range(self.layout.shards)]

    def __reduce__(self) -> tuple[Callable[..., FeatureStore], tuple[Path, str, Verify]]:
        # absolute: the other process may have another working directory; maps and locks belong to this process
        return self.reopen, (Path(os.path.abspath(self.path)), self.fingerprint, self._verify)

    @property
    def shape(self) -> FeatureShape:
        return self.layout.shape

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def dtype(self) -> str:
        return self.layout.dtype

    @property
    def source(self) -> Source:
        return Source(self.manifest.facts["backbone"]["name"], self.manifest.facts["layer"])

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the prepared data; its views are the rows."""
        return str(self.manifest.facts["data"])

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.manifest.mean

    @property
    def std(self) -> NDArray[np.float64]:
        return self.manifest.std

    @property
    def bytes(self) -> int:
        """Size on disk, without the manifest."""
        return sum(record.bytes for record in self.manifest.files.values())

    def read_into(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy `rows` (B,), in that order, into `out` (B, C, H, W): C-contiguous, of the stored type. Thread-safe.

        Raises:
            StoreError: a shard is damaged (checked when it is first read). ValueError: `out` has another shape or type.
            IndexError: there is no such row.
        """
        if out.shape != (len(rows), *self.layout.row_shape) or out.dtype != self.layout.stored:
            raise ValueError(f"out is {out.dtype} {out.shape}; rows are {self.layout.stored} {self.layout.row_shape}")
        self._copy("features", rows, _octets(out, len(rows)))

    def read_scales_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """int8 stores: copy the scales of `rows` (B,) into `out` (B, 2, C): step and minimum."""
        self._copy("scales", rows, _octets(out, len(rows)))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """`rows` (B,) as new float32 features (B, C, H, W). Convenient, but slower than `read_into`."""
        values = np.empty((len(rows), *self.layout.row_shape), self.layout.stored)
        self.read_into(rows, values)
        scales = None
        if self.layout.has_scales:
            scales = np.empty((len(rows), *self.layout.scales_shape), np.float32)
            self.read_scales_into(rows, scales)
        tensors = (torch.from_numpy(values), None if scales is None else torch.from_numpy(scales))
        return decode(*tensors, self.dtype).numpy()

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Hint to the operating system to start reading the shards of `rows` sequentially now."""
        for shard in np.unique(rows // self.layout.shard_rows).tolist():
            read_ahead(self.path / self._shard_file("features", shard))

    def damage(self) -> Iterator[str]:
        """Read every byte and yield one sentence for each file that is missing or differs from its checksum."""
        return (problem for name in self.manifest.files if (problem := self.damage_of(name)) is not None)

    def damage_of(self, name: str) -> str | None:
        """The damage of one file of the manifest as a sentence, or None if it is intact."""
        path, record = self.path / name, self.manifest.files[name]
        found = record_of(path) if path.is_file() else None
        return None if found == record else f"{path} {_difference(record, found)}; {remedy(self.path)}"

    def check_metadata(self) -> None:
        """Check every file that is not a shard. Raises StoreError: one is damaged."""
        arrays: tuple[Array, ...] = ("features", "scales")
        shards = {self._shard_file(array, shard) for array in arrays for shard in range(self.layout.shards)}
        for name in self.manifest.files:
            if name not in shards:
                self._check(name)

    @abstractmethod
    def _locate(self, array: Array, shard: int) -> tuple[Path, list[int], list[int]]:
        """File, offsets and sizes in bytes of the rows of a shard, from the file's own index."""

    @abstractmethod
    def _shard_file(self, array: Array, shard: int) -> str:
        """The file of a shard, relative to the store."""

    def _check(self, name: str) -> None:
        problem = self.damage_of(name)
        if problem is not None:
            raise StoreError(problem)

    def _copy(self, array: Array, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        decoder = self._codec if array == "features" else None
        chunks, opened = None, -1
        for position, row in enumerate(rows.tolist()):
            if not 0 <= row < self.rows:
                raise IndexError(f"row {row} of a store of {self.rows} rows")
            shard, local = divmod(row, self.layout.shard_rows)
            if shard != opened or chunks is None:
                chunks, opened = self._chunks(array, shard), shard
            if decoder is None:
                out[position] = chunks[local]
            else:
                self._decode(decoder, chunks[local], out[position], row)

    def _decode(self, decoder: Codec, chunk: NDArray[np.uint8], out: NDArray[np.uint8], row: int) -> None:
        try:
            decoder.decode(chunk, out)
        except (RuntimeError, ValueError):  # raised by the codecs for damaged data
            name = self._shard_file("features", row // self.layout.shard_rows)
            raise StoreError(
                f"{self.path / name} is damaged: row {row} cannot be decompressed; {remedy(self.path)}"
            ) from None

    def _chunks(self, array: Array, shard: int) -> Chunks:
        chunks = self._opened.get((array, shard))
        if chunks is None:
            with self._locks[shard]:
                chunks = self._opened.get((array, shard))
                if chunks is None:
                    if self._verify == "lazy":
                        self._check(self._shard_file(array, shard))
                    path, offsets, sizes = self._locate(array, shard)
                    chunks = self._opened[array, shard] = Chunks(map_file(path), offsets, sizes)
        return chunks


def check_sizes(store: Path, files: Mapping[str, FileRecord]) -> None:
    """Raises StoreError when a file is missing or does not have the size it was written with."""
    for name, record in files.items():
        path = store / name
        size = path.stat().st_size if path.is_file() else None
        if size != record.bytes:
            found = None if size is None else FileRecord(size, "")
            raise StoreError(f"{path} {_difference(record, found)}; {remedy(store)}")


def _difference(record: FileRecord, found: FileRecord | None) -> str:
    if found is None:
        return "is missing"
    if found.bytes != record.bytes:
        return f"has {found.bytes} bytes instead of {record.bytes}"
    return f"is damaged: its checksum is {found.crc32c}, written was {record.crc32c}"


def _octets(out: NDArray[Any], rows: int) -> NDArray[np.uint8]:
    if not out.flags.c_contiguous:
        raise ValueError("out must be C-contiguous")
    return out.reshape(rows, -1).view(np.uint8)

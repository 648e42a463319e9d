"""Zarr v3: one sharded array `features.zarr` (and `scales.zarr` for int8), one file for each shard.

This module writes the shards itself, because zarr's own writer would read, change and rewrite a shard for every batch.
It follows the `sharding_indexed` codec of the Zarr v3 specification: the chunks, then the offset and size of every
chunk and a CRC-32C of that index. zarr itself writes the metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from pipeline.core.errors import StoreError
from pipeline.core.files import part_path, write_whole
from pipeline.stores.base import FeatureStore
from pipeline.stores.codecs import BLOSC_LEVEL, ZSTD_LEVEL, Codec, codec
from pipeline.stores.files import Crc32c, FileRecord, Verify, map_file, record_of
from pipeline.stores.format import FORMATS, ShardWriter, StoreFormat
from pipeline.stores.layout import Array, Layout
from pipeline.stores.manifest import Manifest, remedy

ABSENT = 2**64 - 1  # offset and size of a chunk beyond the array's last row


def shard_name(array: Array, shard: int) -> str:
    dimensions = 4 if array == "features" else 3
    return f"{array}.zarr/c.{shard}" + ".0" * (dimensions - 1)


class _ArrayShard:
    """One shard file of one array: the chunks, then their index."""

    def __init__(self, path: Path, chunks: int, rows: int, encoder: Codec | None) -> None:
        self._path, self._expected, self._encoder = path, rows, encoder
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(part_path(self._path), "wb")  # noqa: SIM115  (closed by finish or abort)
        self._crc, self._index, self._end = Crc32c(), np.full((chunks, 2), ABSENT, "<u8"), 0
        self._rows = 0

    def append(self, values: NDArray[Any]) -> None:
        if self._encoder is None:
            self._write(values, [values.nbytes // len(values)] * len(values))
            return
        for row in values:
            encoded = self._encoder.encode(row)
            self._write(encoded, [len(encoded)])

    def finish(self) -> FileRecord:
        if self._rows != self._expected:
            raise ValueError(f"{self._path} got {self._rows} rows of {self._expected}")
        index = self._index.tobytes()
        checksum = Crc32c()
        checksum.add(index)
        self._write(index + struct.pack("<I", checksum.value), [])
        self._file.close()
        part_path(self._path).replace(self._path)
        return FileRecord(self._end, self._crc.hex)

    def abort(self) -> None:
        self._file.close()
        part_path(self._path).unlink(missing_ok=True)

    def _write(self, data: NDArray[Any] | bytes, sizes: list[int]) -> None:
        self._file.write(data if isinstance(data, bytes) else data.data)
        self._crc.add(data)
        for size in sizes:
            self._index[self._rows] = self._end, size
            self._rows, self._end = self._rows + 1, self._end + size
        if not sizes:
            self._end += len(data)


class ZarrShardWriter(ShardWriter):
    def __init__(self, store: Path, layout: Layout, shard: int) -> None:
        encoder, rows = codec(layout.compression, layout.stored), len(layout.rows_of(shard))
        names = {"features": shard_name("features", shard)}
        if layout.has_scales:
            names["scales"] = shard_name("scales", shard)
        self._names = names
        self._parts = {
            array: _ArrayShard(store / name, layout.shard_rows, rows, encoder if array == "features" else None)
            for array, name in names.items()
        }

    def append(self, values: NDArray[Any], scales: NDArray[np.float32] | None) -> None:
        self._parts["features"].append(values)
        if scales is not None:
            self._parts["scales"].append(scales)

    def finish(self) -> dict[str, FileRecord]:
        return {self._names[array]: part.finish() for array, part in self._parts.items()}

    def abort(self) -> None:
        for part in self._parts.values():
            part.abort()


@FORMATS.register("zarr")
class ZarrFormat(StoreFormat):
    def write_shard(self, store: Path, layout: Layout, shard: int) -> ShardWriter:
        return ZarrShardWriter(store, layout, shard)

    def write_metadata(self, store: Path, layout: Layout, attributes: Mapping[str, str]) -> dict[str, FileRecord]:
        arrays: dict[Array, tuple[tuple[int, ...], np.dtype[Any]]] = {"features": (layout.row_shape, layout.stored)}
        if layout.has_scales:
            arrays["scales"] = (layout.scales_shape, np.dtype("<f4"))
        files = {}
        for array, (row_shape, dtype) in arrays.items():
            name = f"{array}.zarr/zarr.json"
            write_whole(store / name, _metadata(layout, row_shape, dtype, attributes))
            files[name] = record_of(store / name)
        return files

    def open(self, store: Path, manifest: Manifest, verify: Verify) -> FeatureStore:
        return ZarrStore(store, manifest, verify)


def _metadata(layout: Layout, row_shape: tuple[int, ...], dtype: np.dtype[Any], attributes: Mapping[str, str]) -> bytes:
    """zarr.json as zarr itself writes it, but in memory, so that a kill leaves no partial file."""
    is_features = len(row_shape) == 3
    memory: dict[str, Any] = {}
    zarr.create_array(
        zarr.storage.MemoryStore(memory),
        shape=(layout.rows, *row_shape),
        dtype=dtype,
        chunks=(1, *row_shape),
        shards=(layout.shard_rows, *row_shape),
        compressors=_compressors(layout.compression, dtype) if is_features else None,  # scales are tiny
        fill_value=0,
        attributes=dict(attributes),
        dimension_names=("row", "channel", "height", "width") if is_features else ("row", "scale", "channel"),
        chunk_key_encoding={"name": "default", "separator": "."},  # all shards in one directory
        config={"write_empty_chunks": True},
    )
    content: bytes = memory["zarr.json"].to_bytes()
    return content


def _compressors(compression: str, dtype: np.dtype[Any]) -> list[BloscCodec | ZstdCodec] | None:
    if compression == "lz4":
        return [BloscCodec(cname="lz4", clevel=BLOSC_LEVEL, shuffle="bitshuffle", typesize=dtype.itemsize)]
    return [ZstdCodec(level=ZSTD_LEVEL)] if compression == "zstd" else None


class ZarrStore(FeatureStore):
    """A store of Zarr v3 shards, mapped into memory; see FeatureStore."""

    def _shard_file(self, array: Array, shard: int) -> str:
        return shard_name(array, shard)

    def _locate(self, array: Array, shard: int) -> tuple[Path, list[int], list[int]]:
        path = self.path / shard_name(array, shard)
        chunks = self.layout.shard_rows
        trailer = map_file(path)[-(16 * chunks + 4) :].tobytes()
        checksum = Crc32c()
        checksum.add(trailer[:-4])
        if struct.unpack("<I", trailer[-4:])[0] != checksum.value:
            raise StoreError(f"{path} is damaged: its index of chunks does not match its checksum; {remedy(self.path)}")
        index = np.frombuffer(trailer[:-4], "<u8").reshape(chunks, 2)[: len(self.layout.rows_of(shard))]
        return path, index[:, 0].tolist(), index[:, 1].tolist()

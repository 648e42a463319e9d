"""HDF5: one file for each shard below `shards/`, and `features.h5`, whose virtual data set joins them.

A single HDF5 file could not be resumed: a kill during a write destroys it, or leaves zeros in it. With one file for
each shard, finished shards survive, and h5py still opens `features.h5` as one array.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from h5py import h5d, h5p, h5s, h5t
from numpy.typing import NDArray

from pipeline.core.files import part_path, whole_file
from pipeline.stores.base import FeatureStore
from pipeline.stores.codecs import BLOSC_LEVEL, ZSTD_LEVEL, codec
from pipeline.stores.files import FileRecord, Verify, record_of
from pipeline.stores.format import FORMATS, ShardWriter, StoreFormat
from pipeline.stores.guarded import GuardedFile
from pipeline.stores.layout import Array, Layout
from pipeline.stores.manifest import Manifest

MASTER = "features.h5"


def shard_name(shard: int) -> str:
    return f"shards/{shard:05d}.h5"


class Hdf5ShardWriter(ShardWriter):
    def __init__(self, store: Path, layout: Layout, shard: int) -> None:
        self._name, self._layout = shard_name(shard), layout
        self._path, self._rows = store / self._name, 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._codec = codec(layout.compression, layout.stored)
        self._guarded = GuardedFile(part_path(self._path))
        self._file = h5py.File(self._guarded, "w")
        rows = len(layout.rows_of(shard))
        self._features = self._file.create_dataset(
            "features", (rows, *layout.row_shape), layout.stored, fill_time="never", **_storage(layout)
        )
        if layout.has_scales:
            self._scales = self._file.create_dataset(
                "scales", (rows, *layout.scales_shape), np.dtype("<f4"), fill_time="never"
            )

    def append(self, values: NDArray[Any], scales: NDArray[np.float32] | None) -> None:
        end = self._rows + len(values)
        if self._codec is None:
            self._features[self._rows : end] = values
        else:
            for row, value in enumerate(values, start=self._rows):
                self._features.id.write_direct_chunk((row, 0, 0, 0), self._codec.encode(value))
        if scales is not None:
            self._scales[self._rows : end] = scales
        self._rows = end
        self._guarded.check()

    def finish(self) -> dict[str, FileRecord]:
        if self._rows != len(self._features):
            raise ValueError(f"{self._path} got {self._rows} rows of {len(self._features)}")
        self._close()
        self._guarded.check()
        part_path(self._path).replace(self._path)
        return {self._name: record_of(self._path)}

    def abort(self) -> None:
        self._close()
        part_path(self._path).unlink(missing_ok=True)

    def _close(self) -> None:
        self._file.close()
        self._guarded.close()


@FORMATS.register("hdf5")
class Hdf5Format(StoreFormat):
    def write_shard(self, store: Path, layout: Layout, shard: int) -> ShardWriter:
        return Hdf5ShardWriter(store, layout, shard)

    def write_metadata(self, store: Path, layout: Layout, attributes: Mapping[str, str]) -> dict[str, FileRecord]:
        with whole_file(store / MASTER) as part:
            part.write_bytes(_joined(layout, attributes))
        return {MASTER: record_of(store / MASTER)}

    def open(self, store: Path, manifest: Manifest, verify: Verify) -> FeatureStore:
        return Hdf5Store(store, manifest, verify)


def _storage(layout: Layout) -> dict[str, Any]:
    """Arguments of create_dataset: contiguous without compression, otherwise one filtered chunk for each row."""
    if layout.compression == "none":
        return {}
    filters = {
        "lz4": hdf5plugin.Blosc(cname="lz4", clevel=BLOSC_LEVEL, shuffle=hdf5plugin.Blosc.BITSHUFFLE),
        "zstd": hdf5plugin.Zstd(clevel=ZSTD_LEVEL),
    }
    return {"chunks": (1, *layout.row_shape), **filters[layout.compression]}


def _joined(layout: Layout, attributes: Mapping[str, str]) -> bytes:
    """The content of the file that joins the shards: a few kB, written in memory."""
    content = io.BytesIO()
    with h5py.File(content, "w", libver=("v110", "v110")) as file:
        _join(file, "features", layout, layout.row_shape, layout.stored)
        if layout.has_scales:
            _join(file, "scales", layout, layout.scales_shape, np.dtype("<f4"))
        file["features"].attrs.update(attributes)
    return content.getvalue()


def _join(file: h5py.File, array: Array, layout: Layout, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Add a virtual data set over all shards. h5py's own helper would write the time of day into the file."""
    whole = h5s.create_simple((layout.rows, *row_shape))
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    for shard in range(layout.shards):
        rows = layout.rows_of(shard)
        part = (len(rows), *row_shape)
        whole.select_hyperslab((rows.start, *(0 for _ in row_shape)), part)
        properties.set_virtual(whole, shard_name(shard).encode(), array.encode(), h5s.create_simple(part))
    whole.select_all()
    h5d.create(file.id, array.encode(), h5t.py_create(dtype), whole, properties)


class Hdf5Store(FeatureStore):
    """A store of HDF5 shards, memory-mapped without the HDF5 library; see FeatureStore."""

    def _shard_file(self, array: Array, shard: int) -> str:
        return shard_name(shard)

    def _locate(self, array: Array, shard: int) -> tuple[Path, list[int], list[int]]:
        path = self.path / shard_name(shard)
        with h5py.File(path, "r") as file:
            dataset = file[array]
            if dataset.chunks is None:
                size = dataset.nbytes // len(dataset)
                first = dataset.id.get_offset()
                return path, [first + row * size for row in range(len(dataset))], [size] * len(dataset)
            return path, *_chunk_table(dataset)


def _chunk_table(dataset: h5py.Dataset) -> tuple[list[int], list[int]]:
    offsets, sizes = [0] * len(dataset), [0] * len(dataset)

    def note(chunk: Any) -> None:
        row = chunk.chunk_offset[0]
        offsets[row], sizes[row] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return offsets, sizes

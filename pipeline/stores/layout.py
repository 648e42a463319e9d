"""The layout of one layer's rows on disk: types, chunks and shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.core.sources import FeatureShape

MEGABYTE = 10**6
Array = Literal["features", "scales"]  # the arrays of a store

# The types that plain zarr or h5py reads. Neither library has bfloat16: its bits are kept as uint16, and an
# attribute `stored_dtype` says so.
STORED_AS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
}

# Compressed size over uncompressed size, for predictions only; measured on post-ReLU features of photographs
# (docs/store.md).
EXPECTED_RATIO = {"none": 1.0, "lz4": 0.75, "zstd": 0.62}


@dataclass(frozen=True)
class Layout:
    """The properties of a store that are known before any feature is computed.

    Attributes:
        shape: channels, height and width of one row; a row is one chunk.
        rows: number of rows, one for each view of the prepared data.
        shard_rows: rows in a shard, which is one file; the last shard may have fewer.
    """

    format: str
    dtype: str
    compression: str
    shape: FeatureShape
    rows: int
    shard_rows: int

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy type of the array on disk."""
        return STORED_AS[self.dtype]

    @property
    def row_shape(self) -> tuple[int, int, int]:
        return self.shape.channels, self.shape.height, self.shape.width

    @property
    def scales_shape(self) -> tuple[int, int]:
        """int8 only: step and smallest value of every channel of a row."""
        return 2, self.shape.channels

    @property
    def has_scales(self) -> bool:
        return self.dtype == "int8"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row before compression, including int8's two float32 scales per channel."""
        return value_bytes(self.shape, self.dtype) + self._scale_bytes

    @property
    def _scale_bytes(self) -> int:
        return 4 * 2 * self.shape.channels if self.has_scales else 0

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def rows_of(self, shard: int) -> range:
        """The row numbers that shard number `shard` holds."""
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, self.rows))

    @property
    def expected_bytes(self) -> int:
        """Size of the finished store: within 1 % without compression, a rough estimate with it."""
        values = value_bytes(self.shape, self.dtype) * EXPECTED_RATIO[self.compression]
        row = values + self._scale_bytes + 16  # 16: its entry in the shard's index
        return round(self.rows * row) + 4096 * (self.shards + 2)

    def facts(self) -> dict[str, Any]:
        """The layout as plain values, for the fingerprint."""
        return {
            "format": self.format,
            "dtype": self.dtype,
            "compression": self.compression,
            "shape": list(self.row_shape),
            "rows": self.rows,
            "shard_rows": self.shard_rows,
        }

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Layout:
        return cls(**{**facts, "shape": FeatureShape(*facts["shape"])})


def value_bytes(shape: FeatureShape, dtype: str) -> int:
    """Bytes of the values of one row, before compression and without int8's scales."""
    return shape.elements * STORED_AS[dtype].itemsize


def shard_rows(row_bytes: int, megabytes: int, batch_size: int) -> int:
    """Rows in a shard of about `megabytes` MB: at least one, and a whole number of batches where that fits."""
    rows = max(1, megabytes * MEGABYTE // row_bytes)
    return rows - rows % batch_size if rows > batch_size else rows

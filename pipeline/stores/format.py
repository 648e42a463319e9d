"""The contract of a file format of feature stores, and the registry of formats. Listing its names imports none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.registry import Registry
from pipeline.stores.files import FileRecord, Verify
from pipeline.stores.layout import Layout
from pipeline.stores.manifest import Manifest

if TYPE_CHECKING:
    from pipeline.stores.base import FeatureStore


class ShardWriter(ABC):
    """Writes the rows of one shard, in order. The shard appears in the store only on `finish`."""

    @abstractmethod
    def append(self, values: NDArray[Any], scales: NDArray[np.float32] | None) -> None:
        """Add rows: values (n, C, H, W) of the stored type; scales (n, 2, C) for int8, None otherwise."""

    @abstractmethod
    def finish(self) -> dict[str, FileRecord]:
        """Rename the shard to its final name. Returns the records of its files, by path relative to the store."""

    @abstractmethod
    def abort(self) -> None:
        """Discard the rows."""


class StoreFormat(ABC):
    """Writing and opening stores of one file format."""

    @abstractmethod
    def write_shard(self, store: Path, layout: Layout, shard: int) -> ShardWriter:
        """Start shard number `shard`. Shards may be written in any order and by several processes at once."""

    @abstractmethod
    def write_metadata(self, store: Path, layout: Layout, attributes: Mapping[str, str]) -> dict[str, FileRecord]:
        """Write the files that let plain zarr or h5py open the shards as one array. Returns their records."""

    @abstractmethod
    def open(self, store: Path, manifest: Manifest, verify: Verify) -> FeatureStore:
        """Open a store whose manifest has been read and whose files all exist."""


FORMATS: Registry[type[StoreFormat]] = Registry("store format", "pipeline.stores.formats")

"""The plan of an extraction: layouts, fingerprints and the order of rows. This module computes nothing on a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import FrozenNetwork
from pipeline.core.params import ExtractParams, StoreParams
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.stores.layout import Layout, shard_rows, value_bytes
from pipeline.stores.prepared import PreparedData


def layouts(
    shapes: Mapping[str, FeatureShape], rows: int, store: StoreParams, settings: ExtractParams
) -> dict[str, Layout]:
    """The layout on disk of each layer of one backbone.

    A shard holds the same rows in every layer, as many as fill `store.shard_megabytes` in the largest layer. Layers
    are computed together, so with unequal shards a killed run would lose more work, or a run would need more memory.
    """
    largest = max(value_bytes(shape, store.dtype) for shape in shapes.values())
    per_shard = min(rows, shard_rows(largest, store.shard_megabytes, settings.cpu_batch_size))
    return {
        layer: Layout(store.format, store.dtype, store.compression, shape, rows, per_shard)
        for layer, shape in shapes.items()
    }


def batch_size(layout: Layout, settings: ExtractParams, device: torch.device) -> int:
    """Images in one pass of the network while memory suffices; at most the rows of a shard."""
    found = settings.batch_size is None and device.type == "cuda"
    return layout.shard_rows if found else settings.cpu_batch_size


def store_facts(
    backbone: FrozenNetwork,
    layer: str,
    layout: Layout,
    data: PreparedData,
    settings: ExtractParams,
    device: torch.device,
) -> dict[str, Any]:
    """The facts that determine the numbers of a store; their digest is the store's fingerprint."""
    network = backbone.describe()
    return {
        "backbone": network,
        "layer": layer,
        "input": f"RGB crops of {data.crop}×{data.crop} in [0, 1], normalised by the backbone",
        "data": data.fingerprint,
        "precision": settings.precision,
        "batch_size": batch_size(layout, settings, device),
        "device": device.type,
        "store": layout.facts(),
        "libraries": {name: version(name) for name in sorted({"torch", "numpy", network["library"]})},
    }


class Job:
    """One extraction. Rows are computed in fixed batches that never cross a shard.

    So on one machine, a resumed run, or one of several processes, computes the same bits as an uninterrupted run.
    Another batch size, thread count or processor changes them by rounding.
    """

    def __init__(
        self,
        backbone: FrozenNetwork,
        data: PreparedData,
        store: StoreParams,
        settings: ExtractParams,
        device: torch.device,
    ) -> None:
        self.backbone, self.data, self.settings, self.device = backbone, data, settings, device
        shapes = backbone.shapes(ImageSize(data.crop, data.crop))
        self.layouts = layouts(shapes, len(data), store, settings)
        self.facts = {
            layer: store_facts(backbone, layer, layout, data, settings, device)
            for layer, layout in self.layouts.items()
        }
        self.format = store.format
        self.training = np.zeros(len(data), bool)
        self.training[data.rows("train")] = True
        self._any_layout = next(iter(self.layouts.values()))  # all have the same rows and shards
        self.batch_size = batch_size(self._any_layout, settings, device)

    @property
    def shards(self) -> int:
        return self._any_layout.shards

    def rows_of(self, shard: int) -> range:
        return self._any_layout.rows_of(shard)

    def part(self, index: int, parts: int) -> range:
        """The shards of the `index`-th of `parts` processes."""
        return range(self.shards * index // parts, self.shards * (index + 1) // parts)

    def count(self, shards: Iterable[int]) -> int:
        """Rows in `shards`."""
        return sum(len(self.rows_of(shard)) for shard in shards)

    def expected_bytes(self, shards: Iterable[int]) -> int:
        """Size on disk of `shards` of all layers together."""
        whole = sum(layout.expected_bytes for layout in self.layouts.values())
        return round(whole * self.count(shards) / max(len(self.data), 1))

    def batches(self, shard: int) -> Iterator[NDArray[np.int64]]:
        """The row numbers of each batch of a shard."""
        rows, size = self.rows_of(shard), self.batch_size
        for first in range(rows.start, rows.stop, size):
            yield np.arange(first, min(first + size, rows.stop))

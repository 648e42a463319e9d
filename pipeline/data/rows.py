"""A feature store as a torch Dataset, for training outside this pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.core.errors import StoreError
from pipeline.stores.base import FeatureStore
from pipeline.stores.encoding import rgb
from pipeline.stores.manifest import remedy
from pipeline.stores.prepared import PreparedData, Split


class FeatureRows(Dataset[tuple[Tensor, Tensor]]):
    """The rows of a split: features (C, H, W) float32, and their crop (3, crop, crop) RGB in [0, 1].

    Worker processes of any start method can use it. Each batch of a DataLoader is one read of the store.

    Raises:
        StoreError: the store was made from other prepared data.
    """

    def __init__(self, store: FeatureStore, data: PreparedData, split: Split) -> None:
        if store.data_fingerprint != data.fingerprint:
            raise StoreError(f"{store.path} is stale: it was not made from {data.root}; {remedy(store.path)}")
        self.store, self.data, self.rows = store, data, data.rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        rows = self.rows[np.asarray(places)]
        features, crops = torch.from_numpy(self.store.read(rows)), rgb(torch.from_numpy(self.data.crops(rows)))
        return list(zip(features, crops, strict=True))

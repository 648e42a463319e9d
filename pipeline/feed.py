"""Which rows make an epoch: the batches of the training and validation splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.cached import Batch, CachedFeatures, windowed_plan
from pipeline.images import PreparedData
from pipeline.rows import READ_BATCH, batched

WINDOW = 8  # shards shuffled together where features exceed memory: 1 GB at the default shard size


class SplitFeed:
    """Batches of the training and validation splits, in an order that depends on seed and epoch alone."""

    def __init__(self, data: PreparedData, cached: CachedFeatures, batch_size: int, seed: int) -> None:
        self.data, self.cached, self.batch_size, self.seed = data, cached, batch_size, seed
        rows = data.rows("train")
        images = data.image[rows]
        starts = np.flatnonzero(np.r_[True, images[1:] != images[:-1]])
        self.views = np.split(rows, starts[1:])  # the rows of each training image

    @property
    def waited(self) -> float:
        return self.cached.waited

    def training_images(self) -> int:
        return len(self.views)

    def training(self, epoch: int) -> Iterator[Batch]:
        """Every training image once, in a random view and order (by windows of shards when they exceed memory)."""
        random = np.random.default_rng((self.seed, epoch))
        rows = np.array([random.choice(views) for views in self.views])
        if self.cached.exceeds_memory:
            return self.cached.batches(windowed_plan(self.cached.stores, rows, self.batch_size, WINDOW, random))
        return self.cached.batches(batched(random.permutation(rows), self.batch_size))

    def validation(self) -> Iterator[Batch]:
        return self.cached.batches(batched(self.data.rows("validation"), READ_BATCH))

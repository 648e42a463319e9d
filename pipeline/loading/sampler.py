"""Samplers: the row numbers of an epoch or a pass, and the batches of the training and validation splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.loading.loader import Batch, CachedFeatures
from pipeline.loading.slots import Rows
from pipeline.stores.base import FeatureStore
from pipeline.stores.prepared import PreparedData

READ_BATCH = 16  # rows read at a time; not a hyper-parameter
WINDOW = 8  # shards shuffled together where features exceed memory: 1 GB at the default shard size


def batched(rows: Rows, size: int) -> Iterator[Rows]:
    """`rows` in order, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def spread(total: int, count: int) -> list[int]:
    """At most `count` positions, spread evenly over `range(total)`, including the first and the last."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))


def windows(rows: Rows, shard_rows: int, shards: int, generator: np.random.Generator) -> list[Rows]:
    """Shuffle `rows` (n,) in windows, so that a store larger than memory is read in long runs.

    The shards are put in random order. A window is `shards` successive shards of that order; its rows are shuffled
    among themselves. Memory must hold the shards of one window only.
    """
    shard_of = rows // shard_rows
    order = generator.permutation(np.unique(shard_of))
    parts = [order[first : first + shards] for first in range(0, len(order), shards)]
    return [generator.permutation(rows[np.isin(shard_of, part)]) for part in parts]


def windowed_plan(
    stores: Iterable[FeatureStore], rows: Rows, batch_size: int, shards: int, generator: np.random.Generator
) -> Iterator[Rows]:
    """A plan for `CachedFeatures.batches`: an epoch over `rows` (n,), shuffled within windows of `shards` shards.

    While a window is in use, the disk already reads the next one sequentially. Rows that do not fill a batch go into
    the next window's first batch, so an epoch has as many batches as without windows.
    """
    shard_rows = max(store.layout.shard_rows for store in stores)
    coming, left = windows(rows, shard_rows, shards, generator), rows[:0]
    for window, following in zip(coming, [*coming[1:], rows[:0]], strict=True):
        for store in stores:
            store.will_need(following)
        ready = np.concatenate([left, window])
        full = len(ready) - len(ready) % batch_size
        yield from batched(ready[:full], batch_size)
        left = ready[full:]
    if len(left):
        yield left


class SplitFeed:
    """Batches of the training and validation splits, in an order that depends only on seed and epoch."""

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

"""Mean and standard deviation of every channel, gathered shard by shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass
class Moments:
    """Count of elements, and per channel (C,) float64 their sum and sum of squares.

    Kept for each shard and added in order of shards, so that the result does not depend on which run, or which
    of several processes, computed a shard.
    """

    count: int
    total: NDArray[np.float64]
    square: NDArray[np.float64]

    @classmethod
    def empty(cls, channels: int) -> Self:
        return cls(0, np.zeros(channels), np.zeros(channels))

    def add(self, count: int, total: NDArray[np.floating], square: NDArray[np.floating]) -> None:
        """Add rows whose per-row sums are `total` and `square`, both (n, C); `count` elements a channel in all."""
        self.count += count
        self.total += total.sum(axis=0, dtype=np.float64)
        self.square += square.sum(axis=0, dtype=np.float64)

    @classmethod
    def sum(cls, parts: Iterable[Moments], channels: int) -> Self:
        whole = cls.empty(channels)
        for part in parts:
            whole.add(part.count, part.total[None], part.square[None])
        return whole

    @property
    def mean(self) -> NDArray[np.float32]:
        return (self.total / max(self.count, 1)).astype(np.float32)

    @property
    def std(self) -> NDArray[np.float32]:
        """Population standard deviation; zero for a channel that never changes."""
        count = max(self.count, 1)
        variance = self.square / count - (self.total / count) ** 2
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)

    def plain(self) -> dict[str, Any]:
        return {"count": self.count, "total": self.total.tolist(), "square": self.square.tolist()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        return cls(values["count"], np.array(values["total"]), np.array(values["square"]))

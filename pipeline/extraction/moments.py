"""Mean, standard deviation and rounding error of every channel, accumulated shard by shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass
class Moments:
    """Count of elements, and per channel (C,) float64 their mean and the sum of squared distances from it.

    They are merged as by Chan, Golub & LeVeque (1983), so the error does not grow with a channel's offset. Each shard
    has its own, and they are merged in order of shards, so the result does not depend on which run or process computed
    a shard.
    """

    count: int
    centre: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def empty(cls, channels: int) -> Self:
        return cls(0, np.zeros(channels), np.zeros(channels))

    def add(self, elements: int, means: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Add n rows with `elements` elements per channel, given each row's mean and squares, both (n, C)."""
        if len(means):
            centre = means.mean(axis=0)
            between = elements * np.square(means - centre).sum(axis=0)
            self._merge(Moments(elements * len(means), centre, squares.sum(axis=0) + between))

    @classmethod
    def merged(cls, parts: Iterable[Moments], channels: int) -> Self:
        whole = cls.empty(channels)
        for part in parts:
            whole._merge(part)
        return whole

    def _merge(self, other: Moments) -> None:
        count = self.count + other.count
        share, distance = other.count / max(count, 1), other.centre - self.centre
        self.squares = self.squares + other.squares + np.square(distance) * self.count * share
        self.centre = self.centre + distance * share
        self.count = count

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.centre

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation; for a constant channel zero, up to the rounding of its mean."""
        return np.sqrt(self.squares / max(self.count, 1))

    def plain(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.centre.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        return cls(values["count"], np.array(values["mean"]), np.array(values["squares"]))


@dataclass
class Rounding:
    """The rounding error of a stored type: count of measured elements, and per channel (C,) float64 squared errors."""

    count: int
    squares: NDArray[np.float64]

    @classmethod
    def empty(cls, channels: int) -> Self:
        return cls(0, np.zeros(channels))

    def add(self, count: int, squares: NDArray[np.float64]) -> None:
        """Add `count` elements per channel, with squared errors (C,)."""
        self.count += count
        self.squares = self.squares + squares

    @classmethod
    def merged(cls, parts: Iterable[Rounding], channels: int) -> Self:
        whole = cls.empty(channels)
        for part in parts:
            whole.add(part.count, part.squares)
        return whole

    @property
    def error(self) -> NDArray[np.float64]:
        """Root of the mean squared error of each channel, (C,), in the unit of the features."""
        return np.sqrt(self.squares / max(self.count, 1))

    def plain(self) -> dict[str, Any]:
        return {"count": self.count, "squares": self.squares.tolist()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        return cls(values["count"], np.array(values["squares"]))

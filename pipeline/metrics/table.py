"""The table of metrics, one entry in one file of `measures` each; every list of metrics is derived from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.metrics.perceptual import FeatureDistance
    from pipeline.metrics.similarity import Lpips


PSNR_CAP = 100.0  # dB; the PSNR of identical images in means, tables and files


@dataclass(frozen=True)
class Pair:
    """A batch of reconstructions with their targets, both (B, 3, H, W), and terms that several metrics share."""

    prediction: Tensor
    target: Tensor
    perceptual: Lpips | None = None  # None without AlexNet's weights
    judge: FeatureDistance | None = None  # None if params.yaml names no network

    @cached_property
    def difference(self) -> Tensor:
        """prediction − target in float64, where differences of float32 numbers and their squares are nearly exact."""
        return self.prediction.double() - self.target.double()

    @cached_property
    def squared(self) -> Tensor:
        """Mean squared error of each image, (B,) float64."""
        return mean_of_each(self.difference.square())


@dataclass(frozen=True)
class Metric:
    """A metric of one image against another.

    Attributes:
        place: its position among the columns of tables and files, from 0.
        label, unit, digits: its form in tables; `digits` after the decimal point.
        higher_is_better: the order of a leaderboard.
        convention: how it is computed, for protocol.json; scores are compared only if their conventions are equal.
        judged: whether a network that params.yaml names computes it; scores are compared only if that network is equal.
        measure: `Pair` → (B,) float64, one number per image; None if it cannot be computed here.
    """

    place: int
    label: str
    digits: int
    higher_is_better: bool
    measure: Callable[[Pair], Tensor | None]
    unit: str = ""
    convention: str = ""
    judged: bool = False

    @property
    def title(self) -> str:
        """`PSNR, dB`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def shown(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


METRICS: Registry[Metric] = Registry("metric", "pipeline.metrics.measures")


def all_metrics() -> dict[str, Metric]:
    """Every metric by its name, in the order of tables and files."""
    entries = {name: METRICS.get(name) for name in METRICS.names()}
    return dict(sorted(entries.items(), key=lambda entry: entry[1].place))


def peak_ratio(squared: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors (any shape); inf for 0."""
    return -10 * squared.log10()


def decibels(squared: Tensor) -> Tensor:
    """`peak_ratio`, at most `PSNR_CAP`."""
    return peak_ratio(squared).clamp(max=PSNR_CAP)


def mean_of_each(values: Tensor) -> Tensor:
    """(B, 3, H, W) → (B,)."""
    return values.mean(dim=(1, 2, 3))

"""Learned perceptual distance (Zhang et al. 2018); null without AlexNet's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.metrics.table import METRICS, Metric, Pair

if TYPE_CHECKING:
    from torch import Tensor


def distance(pair: Pair) -> Tensor | None:
    """(B,) float64. The network takes [0, 1] and scales to [-1, 1] itself."""
    return None if pair.perceptual is None else pair.perceptual(pair.prediction, pair.target).double()


METRICS.register("lpips")(
    Metric(
        place=2,
        label="LPIPS",
        digits=4,
        higher_is_better=False,
        convention="v0.1, AlexNet, inputs scaled to [-1, 1]",
        measure=distance,
    )
)

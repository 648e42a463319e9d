"""Structural similarity (Wang et al. 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.metrics.table import METRICS, Metric, Pair

if TYPE_CHECKING:
    from torch import Tensor


def similarity(pair: Pair) -> Tensor:
    """(B,) float64."""
    from pipeline.metrics.scores import ssim  # imports torch, which lists of metrics do not need

    return ssim(pair.prediction, pair.target)


METRICS.register("ssim")(
    Metric(
        place=1,
        label="SSIM",
        digits=4,
        higher_is_better=True,
        convention=(
            "Wang et al. 2004: Gaussian 11x11, sigma 1.5, valid region, population covariance, mean over channels"
        ),
        measure=similarity,
    )
)

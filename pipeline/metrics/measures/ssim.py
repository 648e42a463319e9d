"""Structural similarity (Wang et al. 2004)."""

from pipeline.metrics.scores import ssim
from pipeline.metrics.table import METRICS, Metric

METRICS.register("ssim")(
    Metric(
        place=1,
        label="SSIM",
        digits=4,
        higher_is_better=True,
        convention=(
            "Wang et al. 2004: Gaussian 11x11, sigma 1.5, valid region, population covariance, mean over channels"
        ),
        measure=lambda pair: ssim(pair.prediction, pair.target),
    )
)

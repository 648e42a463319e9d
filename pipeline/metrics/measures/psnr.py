"""Peak signal-to-noise ratio."""

from pipeline.metrics.table import METRICS, PSNR_CAP, Metric, decibels

METRICS.register("psnr")(
    Metric(
        place=0,
        label="PSNR",
        unit="dB",
        digits=2,
        higher_is_better=True,
        convention=f"10 log10(1 / MSE) dB over all pixels and channels; identical images count as {PSNR_CAP:g}",
        measure=lambda pair: decibels(pair.squared),
    )
)

"""Mean absolute error."""

from pipeline.metrics.table import METRICS, Metric, mean_of_each

METRICS.register("mae")(
    Metric(
        place=4,
        label="MAE",
        digits=6,
        higher_is_better=False,
        measure=lambda pair: mean_of_each(pair.difference.abs()),
    )
)

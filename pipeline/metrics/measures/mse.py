"""Mean squared error."""

from pipeline.metrics.table import METRICS, Metric

METRICS.register("mse")(
    Metric(place=3, label="MSE", digits=6, higher_is_better=False, measure=lambda pair: pair.squared)
)

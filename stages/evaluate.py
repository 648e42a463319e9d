"""`python -m stages evaluate`: score the trained decoder on the test split, and draw what came out."""

from stages.options import (
    FEATURES,
    METRICS,
    MODELS,
    PARAMS,
    PREPARED,
    PRIOR,
    Device,
    FeaturesDir,
    MetricsDir,
    ModelDir,
    Overrides,
    ParamsFile,
    PreparedDir,
    PriorDir,
)


def evaluate(
    data: PreparedDir = PREPARED,
    features: FeaturesDir = FEATURES,
    models: ModelDir = MODELS,
    prior: PriorDir = PRIOR,
    metrics: MetricsDir = METRICS,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Score the decoder on the test split: metrics.json, per_image.csv, plots, pictures and report.html."""
    from stages.loading import load_checked

    settings = load_checked(params, overrides)

    from pipeline import evaluation, report
    from pipeline.images import PreparedData
    from pipeline.runtime import choose_device

    evaluation.evaluate(settings, PreparedData.open(data), features, models, metrics, choose_device(device), prior)
    report.write_report(metrics)

    from stages.summary import summary

    summary(metrics)

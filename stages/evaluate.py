"""`python -m stages evaluate`: score the trained decoder on the test split, and draw what came out."""

from stages.options import (
    FEATURES,
    FIRST_STAGE,
    METRICS,
    MODELS,
    PARAMS,
    PREPARED,
    Device,
    FeaturesDir,
    FirstStageDir,
    MetricsDir,
    ModelDir,
    Overrides,
    ParamsFile,
    PreparedDir,
)


def evaluate(
    data: PreparedDir = PREPARED,
    features: FeaturesDir = FEATURES,
    first_stage: FirstStageDir = FIRST_STAGE,
    models: ModelDir = MODELS,
    metrics: MetricsDir = METRICS,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Score the decoder on the test split: metrics.json, per_image.csv, plots, pictures and report.html."""
    from stages.loading import load_checked

    settings = load_checked(params, overrides, loss=False)

    from pipeline.core.runtime import choose_device, enough_memory
    from pipeline.evaluation import report
    from pipeline.evaluation import run as evaluation
    from pipeline.stores.prepared import PreparedData

    prepared, place = PreparedData.open(data), choose_device(device)
    with enough_memory("lower evaluate.batch_size or pass --device cpu"):
        evaluation.evaluate(settings, prepared, features, first_stage, models, metrics, place)
    report.write_report(metrics)

    from stages.summary import summary

    summary(metrics)

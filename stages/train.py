"""`python -m stages train`: fit the decoder on the cached features."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import NOTHING_GAINED
from stages.options import (
    FEATURES,
    FIRST_STAGE,
    METRICS,
    MODELS,
    PARAMS,
    PREPARED,
    PRIOR,
    WORK,
    Device,
    FeaturesDir,
    FirstStageDir,
    ModelDir,
    Overrides,
    ParamsFile,
    PreparedDir,
    PriorDir,
    WorkDir,
)

Curves = Annotated[Path, typer.Option(help="CSV with a row for each epoch: losses, PSNR, rate, samples/s.")]


def train(
    data: PreparedDir = PREPARED,
    features: FeaturesDir = FEATURES,
    first_stage: FirstStageDir = FIRST_STAGE,
    prior: PriorDir = PRIOR,
    models: ModelDir = MODELS,
    curves: Curves = METRICS / "training.csv",
    work: WorkDir = WORK,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Fit the decoder on the cached features. No backbone runs; a killed run resumes at its last epoch."""
    from stages.loading import load_checked

    settings = load_checked(params, overrides)

    from pipeline.core.runtime import choose_device, enough_memory
    from pipeline.stores.files import disk_errors
    from pipeline.stores.prepared import PreparedData
    from pipeline.training import run as training

    prepared, place = PreparedData.open(data), choose_device(device)
    remedy = f"set train.resident: never, lower protocols.{settings.train.protocol}.batch_size, or pass --device cpu"
    with disk_errors(f"{work} or {models}", "from what was saved"), enough_memory(remedy):
        model = training.train(settings, prepared, features, first_stage, prior, models, curves, work, place)
    if model.get("best_epoch") == 0:
        typer.echo(NOTHING_GAINED)

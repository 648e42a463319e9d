"""`python -m stages plan`: how much disk and time an extraction will take, before it takes any."""

from typing import Annotated

import typer

from stages.extract import Backbones, chosen_backbones
from stages.options import (
    FEATURES,
    FIRST_STAGE,
    PARAMS,
    PREPARED,
    WORK,
    Device,
    FeaturesDir,
    FirstStageDir,
    Overrides,
    ParamsFile,
    PreparedDir,
    WorkDir,
)

Everything = Annotated[bool, typer.Option("--all", help="Every backbone of params.yaml.")]
Timed = Annotated[bool, typer.Option("--time/--no-time", help="Run a few batches of each backbone to estimate.")]


def plan(
    backbone: Backbones = None,
    everything: Everything = False,
    timed: Timed = True,
    data: PreparedDir = PREPARED,
    features: FeaturesDir = FEATURES,
    first_stage: FirstStageDir = FIRST_STAGE,
    work: WorkDir = WORK,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Predict size and time of the feature stores, beside the free disk. Fails when they would not fit."""
    from stages.loading import load_checked

    settings = load_checked(params, overrides)
    names = sorted(settings.backbones) if everything else backbone
    entries = chosen_backbones(settings, names)

    from pipeline.core.params import NONE
    from pipeline.core.runtime import choose_device
    from pipeline.core.tables import text_table
    from pipeline.experiments.plan import estimate_seconds, plan_backbone, plan_first_stage
    from pipeline.extraction.run import require_space
    from pipeline.extraction.workspace import free_bytes
    from pipeline.stores.prepared import PreparedData
    from stages.tables import duration, size

    prepared, place = PreparedData.open(data), choose_device(device)
    plans = [plan_backbone(name, settings, prepared, features) for name in entries if name != NONE]
    if settings.two_stage.refine != NONE:
        plans.append(plan_first_stage(settings, prepared, features, first_stage))
    rows = []
    for predicted in plans:
        about = "extracted" if predicted.present else ""
        if timed and not predicted.present and predicted.name in entries:
            about = duration(estimate_seconds(predicted.name, settings, prepared, place))
        for layer, layout in predicted.layouts.items():
            each, total = size(layout.row_bytes), size(layout.expected_bytes)
            rows.append([f"{predicted.name}.{layer}", str(layout.shape), f"{layout.rows:,}", each, total, about])
            about = '"'
    needed = sum(predicted.bytes for predicted in plans)
    typer.echo(text_table(["layer", "shape", "rows", "a row", "total", f"time ({place})"], rows))
    typer.echo(f"to be written: {size(needed)}; free on the disk of {work}: {size(free_bytes(work))}")
    require_space(needed, "these features", work)

"""`python -m stages refine`: the first of two stages, every photograph refined through the known network."""

import typer

from stages.options import (
    FEATURES,
    FIRST_STAGE,
    PARAMS,
    PREPARED,
    PRIOR,
    WORK,
    Device,
    FeaturesDir,
    FirstStageDir,
    Overrides,
    ParamsFile,
    PreparedDir,
    PriorDir,
    WorkDir,
)


def refine(
    data: PreparedDir = PREPARED,
    features: FeaturesDir = FEATURES,
    prior: PriorDir = PRIOR,
    first_stage: FirstStageDir = FIRST_STAGE,
    work: WorkDir = WORK,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Refine every photograph by `two_stage.refine`, as one more input of the decoder; nothing when it is none."""
    from pipeline.core.files import write_whole
    from pipeline.core.params import NONE, load_params
    from pipeline.models.common.checkpoint import clear_first_stage

    unused = first_stage / "unused"
    if load_params(params, overrides or ()).two_stage.refine == NONE:  # known before torch is loaded
        clear_first_stage(first_stage)
        write_whole(unused, b"two_stage.refine is none: decoders see the features alone.\n")
        return

    from stages.loading import load_checked

    settings = load_checked(params, overrides)

    from pipeline.core.runtime import choose_device
    from pipeline.experiments.first_stage import refine_photographs
    from pipeline.stores.prepared import PreparedData

    place = choose_device(device)
    unused.unlink(missing_ok=True)
    warning = refine_photographs(settings, PreparedData.open(data), features, prior, first_stage, work, place)
    if warning is not None:
        typer.echo(f"warning: {warning}")

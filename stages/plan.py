"""plan: predict disk and time of an extraction."""

from collections.abc import Sequence

import typer

from pipeline.core.params import NONE, Params
from pipeline.core.paths import Paths
from pipeline.core.runtime import choose_device
from pipeline.core.tables import text_table
from pipeline.experiments.plan import estimate_seconds, plan_backbone, plan_first_stage
from pipeline.extraction.run import require_space
from pipeline.extraction.workspace import free_bytes
from pipeline.stores.prepared import PreparedData
from stages.extract import chosen_backbones
from stages.tables import duration, size


def plan(settings: Params, paths: Paths, device: str, names: Sequence[str] | None, timed: bool) -> None:
    """Plan the backbones `names`, or those of the experiment; if `timed`, run some batches to estimate the time."""
    entries = chosen_backbones(settings, names)
    prepared, place = PreparedData.open(paths.data), choose_device(device)
    plans = [plan_backbone(name, settings, prepared, paths) for name in entries]
    if settings.two_stage.refine != NONE:
        plans.append(plan_first_stage(settings, prepared, paths))
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
    typer.echo(f"to be written: {size(needed)}; free on the disk of {paths.work}: {size(free_bytes(paths.work))}")
    require_space(needed, "these features", paths.work)

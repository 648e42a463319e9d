"""refine: the first of two stages, which refines every photograph through the known network."""

import typer

from pipeline.core.params import Params
from pipeline.core.paths import Paths
from pipeline.core.runtime import choose_device
from pipeline.experiments.first_stage import refine_photographs
from pipeline.stores.prepared import PreparedData


def refine(settings: Params, paths: Paths, device: str) -> None:
    place = choose_device(device)
    (paths.first_stage / "unused").unlink(missing_ok=True)
    warning = refine_photographs(settings, PreparedData.open(paths.data), paths, place)
    if warning is not None:
        typer.echo(f"warning: {warning}")

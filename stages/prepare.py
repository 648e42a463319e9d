"""prepare: photographs of the chosen data set → data/prepared."""

import typer

from pipeline.core.params import Params
from pipeline.core.paths import Paths
from pipeline.data.preparation import run
from pipeline.stores.prepared import PreparedData


def prepare(settings: Params, paths: Paths) -> None:
    run.prepare(settings, paths.data, paths.work)
    typer.echo(PreparedData.open(paths.data).summary())

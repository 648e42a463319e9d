"""prepare: photographs of the chosen data set → data/prepared."""

from pathlib import Path
from typing import Annotated

import typer

from stages import options


def prepare(
    params: options.ParamsFile = options.PARAMS,
    overrides: options.Overrides = None,
    output: Annotated[
        Path, typer.Option("--data", help="Where the prepared photographs go; replaced.")
    ] = options.PREPARED,
    work: options.WorkDir = options.WORK,
) -> None:
    """Check, resize and split the photographs of `dataset`; draw the views that every later stage uses."""
    from pipeline.data.preparation.run import prepare as run
    from pipeline.stores.prepared import PreparedData
    from stages.loading import load_checked

    run(load_checked(params, overrides), output, work)
    typer.echo(PreparedData.open(output).summary())

"""`python -m stages check`: is params.yaml valid, whole? The first stage of the graph."""

from pathlib import Path

import typer

from stages.options import PARAMS, Overrides, ParamsFile

CHECKED = Path("data/checked")


def check(params: ParamsFile = PARAMS, overrides: Overrides = None) -> None:
    """Validate params.yaml, down to every option of every decoder, fusion, loss and data set."""
    from pipeline.core.files import write_whole
    from stages.loading import check_networks, load_checked, missing_weights, remember

    # Written first: DVC deletes the file before this stage runs, and a refused params.yaml should leave the
    # workspace as it was. That the check has not passed is told by the exit code and by dvc.lock.
    write_whole(CHECKED, b"params.yaml is valid\n")
    checked = load_checked(params, overrides)
    check_networks(checked)
    remember(checked)
    for note in missing_weights(checked):
        typer.echo(note, err=True)

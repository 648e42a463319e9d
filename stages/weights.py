"""`python -m stages weights`: published weights listed, fetched, or carried to a machine without network."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import ParamsError
from stages.options import PARAMS, Overrides, ParamsFile

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Fetch these: backbones of params.yaml, or lpips (AlexNet). Without: list all."),
]
To = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Fetch what is missing and copy it to DIR.")]
From = Annotated[
    Path | None, typer.Option("--from", metavar="DIR", help="Copy from DIR to where torchvision and timm look.")
]


def weights(
    names: Names = None,
    to: To = None,
    source: From = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """List weights of networks; fetch those named; or carry them: --to DIR with network, then --from DIR without."""
    from pipeline.core.params import load_params

    entries = load_params(params, overrides or ()).backbones
    if to is not None and source is not None:
        raise ParamsError("weights: --to and --from are for two machines; give one of them")
    if (to is not None or source is not None) and not names:
        raise ParamsError("weights: say which, for example `python -m stages weights vgg16 lpips --to DIR`")

    from pipeline.experiments import transfer

    written: list[Path] = []
    fetched: list[str] = []  # what is newly where the libraries look
    if to is not None:
        written = transfer.export(names or (), entries, to)
    elif source is not None:
        written, fetched = transfer.install(names or (), entries, source), names or []
    else:
        fetched = transfer.fetch(names or (), entries)
        for name in names or transfer.names(entries):
            typer.echo(transfer.status(name, entries))
    for path in written:
        typer.echo(f"wrote {path}")
    if transfer.LPIPS in fetched:
        typer.echo("scores that were written without LPIPS stay so until: dvc repro --force --single-item evaluate")

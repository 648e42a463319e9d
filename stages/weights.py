"""weights: download published weights, or carry them to a machine without network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from pipeline.core.errors import ParamsError
from pipeline.core.params import BackboneParams
from pipeline.experiments import transfer


def weights(entries: Mapping[str, BackboneParams], names: Sequence[str], to: Path | None, source: Path | None) -> None:
    """Copy the weights of `names` to the folder `to`, or from the folder `source`, or download them."""
    if to is not None and source is not None:
        raise ParamsError("weights: --to and --from are for two machines; give only one of them")
    if (to is not None or source is not None) and not names:
        raise ParamsError("weights: names are missing; write, for example, `stages weights vgg16 lpips --to DIR`")

    written: list[Path] = []
    fetched: list[str] = []  # names whose weights are new in the libraries' caches
    if to is not None:
        written = transfer.export(names, entries, to)
    elif source is not None:
        written, fetched = transfer.install(names, entries, source), [*names]
    else:
        fetched = transfer.fetch(names, entries)
        for name in names:
            typer.echo(transfer.status(name, entries))
    for path in written:
        typer.echo(f"wrote {path}")
    if transfer.LPIPS in fetched:
        typer.echo("to add LPIPS to scores written without it, run: dvc repro --force --single-item evaluate")

"""compare: experiments side by side."""

from collections.abc import Sequence
from pathlib import Path

import typer

from pipeline.experiments import comparison


def compare(experiments: Sequence[str], out: Path, metric: str) -> None:
    typer.echo(comparison.compare(experiments, out, metric))
    if (out / comparison.STRIP).is_file():
        typer.echo(f"pictures: {out / comparison.STRIP}")
    else:
        typer.echo("no pictures: the experiments saved no photograph in common")

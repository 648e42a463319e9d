"""`python -m stages compare`: experiments side by side."""

from pathlib import Path
from typing import Annotated

import typer

from stages.options import WORK

Experiments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXP…",
        help="DVC experiments, Git revisions, or folders with metrics.json. Without: the workspace, all experiments "
        "and the last commit.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Where leaderboard.md, leaderboard.csv and strip.png go.")]
Metric = Annotated[str, typer.Option(help="What the order goes by: psnr, ssim or another metric.")]


def compare(experiments: Experiments = None, out: Out = WORK / "comparison", metric: Metric = "psnr") -> None:
    """Print a leaderboard, with significance by photograph; save it, and a strip of the same photographs from each."""
    from pipeline.experiments.comparison import STRIP
    from pipeline.experiments.comparison import compare as run

    typer.echo(run(experiments or (), out, metric))
    if (out / STRIP).is_file():
        typer.echo(f"pictures: {out / STRIP}")
    else:
        typer.echo("no pictures: the experiments saved no photograph in common")

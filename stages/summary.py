"""summary: print the scores of the last evaluation."""

from pathlib import Path

import typer

from pipeline.evaluation.report import score_table


def summary(metrics: Path) -> None:
    typer.echo(score_table(metrics))
    typer.echo(f"pictures and curves: {metrics / 'report.html'}; compare experiments: dvc metrics diff, dvc plots diff")

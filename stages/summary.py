"""`python -m stages summary`: the scores of the last evaluation, and where to look next."""

from stages.options import METRICS, MetricsDir


def summary(metrics: MetricsDir = METRICS) -> None:
    """Print the scores beside their floors and ceilings, without computing anything."""
    import typer

    from pipeline.evaluation.report import score_table

    typer.echo(score_table(metrics))
    typer.echo(f"pictures and curves: {metrics / 'report.html'}; compare experiments: dvc metrics diff, dvc plots diff")

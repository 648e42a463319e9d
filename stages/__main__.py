"""`python -m stages`: one command for each stage of the pipeline, and the tools around it."""

import sys

import typer

from pipeline.errors import PipelineError
from stages.check import check
from stages.compare import compare
from stages.evaluate import evaluate
from stages.extract import extract
from stages.inspect import inspect
from stages.plan import plan
from stages.prepare import prepare
from stages.reconstruct import reconstruct
from stages.summary import summary
from stages.train import train
from stages.verify import verify
from stages.weights import weights

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Feature inversion: prepare → extract → train → evaluate. `dvc repro` runs these same stages.",
)
for command in (prepare, extract, train, evaluate, summary, compare, reconstruct):
    app.command()(command)
for command in (check, plan, inspect, verify, weights):
    app.command()(command)


def main() -> None:
    try:
        app()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

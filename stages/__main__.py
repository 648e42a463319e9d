"""`python -m stages`: one command for each stage of the pipeline, and the tools around it."""

import sys
from collections.abc import Callable

import typer

from pipeline.core.errors import PipelineError
from stages.check import check
from stages.compare import compare
from stages.evaluate import evaluate
from stages.extract import extract
from stages.inspect import inspect
from stages.plan import plan
from stages.prepare import prepare
from stages.prior import prior
from stages.reconstruct import reconstruct
from stages.refine import refine
from stages.study import study
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
STAGES: tuple[Callable[..., None], ...] = (prepare, prior, extract, refine, train, evaluate)
TOOLS: tuple[Callable[..., None], ...] = (summary, compare, study, reconstruct, check, plan, inspect, verify, weights)
for command in (*STAGES, *TOOLS):
    app.command()(command)


def main() -> None:
    try:
        app()
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a read-only folder, a full disk, a file where a folder belongs
        sys.exit(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))


if __name__ == "__main__":
    main()

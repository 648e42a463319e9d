"""Options that commands share. They choose folders and devices; params.yaml describes the experiment."""

from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One-off override of a parameter; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto (CUDA when there is a GPU), cpu, cuda or cuda:N.")]
Root = Annotated[
    Path, typer.Option("--root", help="The folder with data/prepared, features, models, metrics and .work.")
]
ModelDir = Annotated[Path | None, typer.Option("--models", help="The fitted decoder. Default: models below --root.")]
MetricsDir = Annotated[
    Path | None, typer.Option("--metrics", help="Curves, scores and pictures. Default: metrics below --root.")
]
WorkDir = Annotated[
    Path | None,
    typer.Option("--work", help="Unfinished work, from which a killed run resumes. Default: .work below --root."),
]

PARAMS = Path("params.yaml")
HERE = Path()
WORK = Path(".work")
METRICS = Path("metrics")

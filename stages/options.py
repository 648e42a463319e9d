"""Options every stage shares. They say *where*; *what* comes from params.yaml."""

from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One-off override of a parameter; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto (CUDA when there is a GPU), cpu, cuda or cuda:N.")]
PreparedDir = Annotated[Path, typer.Option("--data", help="Prepared photographs, written by prepare.")]
FeaturesDir = Annotated[Path, typer.Option("--features", help="Feature stores, written by extract.")]
ModelDir = Annotated[Path, typer.Option("--models", help="The fitted decoder, written by train.")]
MetricsDir = Annotated[Path, typer.Option("--metrics", help="Scores and pictures, written by evaluate.")]
FirstStageDir = Annotated[
    Path, typer.Option("--first-stage", help="Refined photographs for decoders of two stages, written by refine.")
]
PriorDir = Annotated[Path, typer.Option("--prior", help="The image prior, written by prior.")]
WorkDir = Annotated[Path, typer.Option("--work", help="Unfinished work, kept so that a killed run resumes.")]

PARAMS = Path("params.yaml")
PREPARED = Path("data/prepared")
PRIOR = Path("data/prior")
FIRST_STAGE = Path("data/first_stage")
FEATURES = Path("features")
MODELS = Path("models")
METRICS = Path("metrics")
WORK = Path(".work")

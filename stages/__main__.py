"""`python -m stages`: one command for each stage of the pipeline, and tools.

This module reads options and validates params.yaml without torch, then imports the command's own module, which may
load torch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import PipelineError
from pipeline.core.files import write_whole
from pipeline.core.params import NONE, load_params
from pipeline.core.paths import Paths
from stages.loading import load_checked
from stages.options import (
    HERE,
    PARAMS,
    WORK,
    Device,
    MetricsDir,
    ModelDir,
    Overrides,
    ParamsFile,
    Root,
    WorkDir,
)

CHECKED = Path("data/checked")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Feature inversion: prepare → extract → train → evaluate. `dvc repro` runs these same stages.",
)

Backbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", metavar="NAME", help="A backbone of params.yaml; repeatable. Default: the experiment's."
    ),
]
Metric = Annotated[str, typer.Option(help="Sort by this metric: psnr, ssim or another one.")]
Jobs = Annotated[int | None, typer.Option(help="Experiments at a time. Default: one for each GPU, or one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the experiments, with estimated disk and time.")]
StudyOut = Annotated[Path | None, typer.Option("--out", help="Folder of the results. Default: metrics/studies/NAME.")]


@app.command()
def prepare(root: Root = HERE, work: WorkDir = None, params: ParamsFile = PARAMS, overrides: Overrides = None) -> None:
    """Check, resize and split the photographs of `dataset`; draw the views that every later stage uses."""
    settings = load_checked(params, overrides)
    from stages.prepare import prepare

    prepare(settings, Paths.below(root, work=work))


@app.command()
def prior(root: Root = HERE, params: ParamsFile = PARAMS, overrides: Overrides = None) -> None:
    """Fit the image prior, a colour covariance for each spatial frequency, on the training photographs."""
    load_checked(params, overrides)
    from stages.prior import prior

    prior(Paths.below(root))


@app.command()
def extract(
    backbone: Backbones = None,
    root: Root = HERE,
    work: WorkDir = None,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    shards: Annotated[
        str,
        typer.Option(metavar="I/N", help="Extract part I of N, counted from 0, as other processes extract the others."),
    ] = "0/1",
    clean: Annotated[
        bool, typer.Option("--clean", help="Only remove unfinished work of killed or outdated extractions.")
    ] = False,
) -> None:
    """Run each frozen backbone once over all photographs and store the features of its layers."""
    paths = Paths.below(root, work=work)
    if NONE in (backbone or ()) and not clean:
        from stages.unused import unused_slot

        unused_slot(paths)
        backbone = [name for name in backbone or () if name != NONE]
        if not backbone:
            return
    settings = load_checked(params, overrides)
    from stages.extract import extract, remove_leftovers

    if clean:
        remove_leftovers(paths, backbone)
    else:
        extract(settings, paths, device, backbone, shards)


@app.command()
def refine(
    root: Root = HERE,
    work: WorkDir = None,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Refine every photograph by `two_stage.refine`, as a further input of the decoder; do nothing if it is none."""
    paths = Paths.below(root, work=work)
    if load_params(params, overrides or ()).two_stage.refine == NONE:
        from stages.unused import unused_first_stage

        unused_first_stage(paths)
        return
    settings = load_checked(params, overrides)
    from stages.refine import refine

    refine(settings, paths, device)


@app.command()
def train(
    root: Root = HERE,
    models: ModelDir = None,
    metrics: MetricsDir = None,
    work: WorkDir = None,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Fit the decoder on the cached features. No backbone runs; a killed run resumes at its last epoch."""
    settings = load_checked(params, overrides)
    from stages.train import train

    train(settings, Paths.below(root, models=models, metrics=metrics, work=work), device)


@app.command()
def evaluate(
    root: Root = HERE,
    models: ModelDir = None,
    metrics: MetricsDir = None,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Score the decoder on the test split: metrics.json, per_image.csv, plots, pictures and report.html."""
    settings = load_checked(params, overrides, loss=False)
    from stages.evaluate import evaluate

    evaluate(settings, Paths.below(root, models=models, metrics=metrics), device)


@app.command()
def summary(root: Root = HERE, metrics: MetricsDir = None) -> None:
    """Print the scores beside their floors and ceilings, without computing anything."""
    from stages.summary import summary

    summary(Paths.below(root, metrics=metrics).metrics)


@app.command()
def compare(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXP…",
            help="DVC experiments, Git revisions, or folders with metrics.json. Without: the workspace, all "
            "experiments and the last commit.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of leaderboard.md, leaderboard.csv and strip.png.")] = WORK
    / "comparison",
    metric: Metric = "psnr",
) -> None:
    """Print and save a leaderboard, with significance by photograph, and a strip of the same photographs from each."""
    from stages.compare import compare

    compare(experiments or [], out, metric)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A file of studies/.")],
    jobs: Jobs = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
    out: StudyOut = None,
    metric: Metric = "psnr",
) -> None:
    """Run the experiments of STUDY that have no result yet, then write a leaderboard, a table and figures."""
    from stages.study import study

    study(file, jobs, dry_run, overrides or [], out, metric)


@app.command()
def layers(
    jobs: Jobs = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
    out: StudyOut = None,
    metric: Metric = "psnr",
) -> None:
    """Measure what each layer of `layer` adds: alone, added to the shallower ones, left out; its weight."""
    from stages.layers import layers

    layers(jobs, dry_run, overrides or [], out, metric)


@app.command()
def reconstruct(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Photographs, folders, or quoted patterns.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the pictures and scores.csv.")] = WORK
    / "reconstructions",
    model: Annotated[Path, typer.Option("--model", help="The trained decoder, written by train.")] = Path("models"),
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Save each photograph, cropped and resized as in training, beside its reconstruction and scores."""
    settings = load_checked(params, overrides, loss=False)
    from stages.reconstruct import reconstruct

    reconstruct(settings, images, model, out, device)


@app.command()
def check(params: ParamsFile = PARAMS, overrides: Overrides = None) -> None:
    """Validate params.yaml, down to every option of every decoder, fusion, loss and data set."""
    # Written first, because DVC deletes the file before this stage runs, and a refused params.yaml should leave the
    # workspace unchanged. The exit code and dvc.lock show that the check failed.
    write_whole(CHECKED, b"params.yaml is valid\n")
    settings = load_checked(params, overrides)
    from stages.check import check

    check(settings)


@app.command()
def plan(
    backbone: Backbones = None,
    everything: Annotated[bool, typer.Option("--all", help="Every backbone of params.yaml.")] = False,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Run a few batches of each backbone to estimate.")
    ] = True,
    root: Root = HERE,
    work: WorkDir = None,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Predict size and time of the feature stores, and show the free disk; fail if they do not fit."""
    settings = load_checked(params, overrides)
    from stages.plan import plan

    plan(settings, Paths.below(root, work=work), device, sorted(settings.backbones) if everything else backbone, timed)


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="features, one of its backbones, or one layer of it.")
    ] = Path("features"),
) -> None:
    """Print layers, types, weights, sizes, statistics and fingerprints of the feature stores below PATH."""
    from stages.inspect import inspect

    inspect(path)


@app.command()
def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Directories of stores. Default: features, and the images in data/first_stage.",
        ),
    ] = None,
) -> None:
    """Compare every file of the feature stores below each PATH with its checksum; list all damage, and fail on any."""
    from stages.verify import verify

    verify(paths)


@app.command()
def weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Backbones of params.yaml, or lpips (AlexNet), to download. Without: list all."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Download missing weights and copy all to DIR.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Copy from DIR into the caches of torchvision and timm."),
    ] = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """List or download weights of networks, or carry them: --to DIR with network, then --from DIR without."""
    entries = load_params(params, overrides or ()).backbones
    if not (names or to or source):
        from stages.weights_listed import list_weights

        list_weights(entries)
        return
    from stages.weights import weights

    weights(entries, names or [], to, source)


@app.command("app")
def laboratory(
    root: Root = HERE,
    host: Annotated[
        str, typer.Option(help="The address to listen at. Default: this machine alone can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 7860,
    memory: Annotated[float, typer.Option(min=0, help="GB that loaded models may take together.")] = 2.0,
    device: Device = "auto",
    params: Annotated[
        Path | None, typer.Option("--params", help="The parameters file. Default: params.yaml below --root.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Open the laboratory in a browser: upload, webcam, depth, tampering, upper bound, experiments; no network."""
    from app.serve import serve

    serve(root, host, port, params, overrides or (), device, int(memory * 1e9))


def main() -> None:
    try:
        app()
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a read-only folder, a full disk, a file in place of a folder
        sys.exit(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))


if __name__ == "__main__":
    main()

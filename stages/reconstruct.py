"""`python -m stages reconstruct`: any photograph through the network and the trained decoder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stages.options import MODELS, PARAMS, WORK, Device, Overrides, ParamsFile

Images = Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Photographs, folders, or quoted patterns.")]
Model = Annotated[Path, typer.Option("--model", help="The trained decoder, written by train.")]
Out = Annotated[Path, typer.Option("--out", help="Where the pictures and scores.csv go.")]


def reconstruct(
    images: Images,
    out: Out = WORK / "reconstructions",
    model: Model = MODELS,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Save each photograph beside its reconstruction, with its scores; cut and resized as in training."""
    from stages.loading import load_checked

    settings = load_checked(params, overrides, loss=False)

    from pipeline.core.files import printable
    from pipeline.core.runtime import choose_device, enough_memory
    from pipeline.experiments.reconstruction import reconstruct as run

    place = choose_device(device)
    with enough_memory("lower evaluate.batch_size or pass --device cpu"):
        result = run(images, model, settings, out, place)
    for row in result.scores:
        perceptual = f", LPIPS {row['lpips']:.4f}" if "lpips" in row else ""
        typer.echo(f"{out / row['picture']}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}{perceptual}{_squashed(row)}")
    for path, reason in result.bad:
        typer.echo(f"left out {printable(path)}: {reason}", err=True)


def _squashed(row: dict[str, Any]) -> str:
    from pipeline.experiments.reconstruction import STRETCHED

    if row["stretch"] < STRETCHED:
        return ""
    return (
        f" (1:{row['stretch']:.1f} squashed into a square, as in training: far from the shapes that the "
        "decoder knows; cut a square out of it to avoid that)"
    )

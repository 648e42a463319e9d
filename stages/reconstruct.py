"""reconstruct: send any photograph through the network and the trained decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from pipeline.core.files import printable
from pipeline.core.params import Params
from pipeline.core.runtime import choose_device, enough_memory
from pipeline.experiments import reconstruction


def reconstruct(settings: Params, images: Sequence[str], model: Path, out: Path, device: str) -> None:
    place = choose_device(device)
    with enough_memory("lower evaluate.batch_size or pass --device cpu"):
        result = reconstruction.reconstruct(images, model, settings, out, place)
    for row in result.scores:
        perceptual = f", LPIPS {row['lpips']:.4f}" if "lpips" in row else ""
        typer.echo(f"{out / row['picture']}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}{perceptual}{_squashed(row)}")
    for path, reason in result.bad:
        typer.echo(f"left out {printable(path)}: {reason}", err=True)


def _squashed(row: dict[str, Any]) -> str:
    if row["stretch"] < reconstruction.STRETCHED:
        return ""
    return (
        f" (1:{row['stretch']:.1f} squashed into a square, as in training, which distorts shapes; crop it to a square "
        "first to avoid that)"
    )

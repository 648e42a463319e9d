"""Evaluations as `compare` reads them, made up."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.evaluation.conventions import CONVENTIONS

IMAGES = 40


def write_experiment(
    folder: Path,
    shift: float,
    seed: int = 0,
    pixels: str = "a" * 64,
    lpips: bool = True,
    photographs: int = IMAGES,
    called: str = "photograph_{:02}.png",
) -> Path:
    """An evaluation whose PSNR is that of `seed` 0 plus `shift` plus noise of 0.1 dB; `called` names the images."""
    base = np.random.default_rng(100).normal(30, 4, IMAGES)
    psnr = base + shift + np.random.default_rng(seed).normal(0, 0.1, IMAGES)
    names = [called.format(k) for k in range(IMAGES)]
    table = {"psnr": psnr, "ssim": psnr / 50, "mse": 10 ** (-psnr / 10), "mae": 1 / psnr}
    if lpips:
        table["lpips"] = 10 / psnr
    (folder / "reconstructions").mkdir(parents=True)
    shown = [f"{k * photographs // IMAGES:02}" for k in range(IMAGES)]
    pd.DataFrame({"image": names, "photograph": shown, **table}).to_csv(folder / "per_image.csv", index=False)
    metrics = {name: {"mean": float(values.mean())} for name, values in table.items()}
    metrics = {"lpips": None, **metrics, "decoder": {"parameters": 1234}}
    weights = {"kind": "random", "detail": "seed 0", "sha256": "0"}
    protocol = {
        "conventions": CONVENTIONS,
        "test_images": IMAGES,
        "test_pixels": pixels,
        "model": {"blueprint": {"decoder": folder.name, "fusion": "none"}},
        "features": {"vgg16.block1": {"backbone": {"weights": weights}}},
        "data": {"dataset": "folder"},
        "reconstructions": names[:2],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "protocol.json").write_text(json.dumps(protocol))
    for number in range(2):
        for kind, level in (("original", 40 * number), ("reconstruction", 40 * number + int(10 * shift))):
            Image.new("RGB", (100, 80), (level, 0, 0)).save(folder / f"reconstructions/{number:02}_{kind}.png")
    return folder


def three_experiments(folder: Path) -> list[str]:
    """A good one, and two that are a little apart."""
    shifts = {"good": 2.0, "middle": 1.0, "close": 0.995}
    return [str(write_experiment(folder / name, shift, seed)) for seed, (name, shift) in enumerate(shifts.items())]

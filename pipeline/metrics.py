"""The metric contract: per image, RGB, float32 in [0, 1], no border crop, outside autocast.

Every function takes two batches (B, 3, H, W) and returns one number per image (B,), float64. Conventions
that differ between libraries, and which of them is used here, are listed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.similarity import Lpips, ssim

__all__ = [
    "METRICS",
    "PSNR_CAP",
    "bootstrap_means",
    "check_eight_bit",
    "check_images",
    "mae",
    "mse",
    "psnr",
    "score",
    "ssim",
]

METRICS = ("psnr", "ssim", "lpips", "mse", "mae")
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "mse": False, "mae": False}
PSNR_CAP = 100.0  # dB; what an identical image counts as in means, tables and files

_EIGHT_BIT_TOLERANCE = 1e-3  # of one grey level: float32 holds k/255 to 1e-5 of a level


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image, (B,) float64 (rows summed in float32, the rest in float64)."""
    return _mean(torch.square(prediction - target))


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of each image, (B,) float64."""
    return _mean(torch.abs(prediction - target))


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, 10·log10(1 / MSE); inf for identical images."""
    return -10 * torch.log10(mse(prediction, target))


def score(prediction: Tensor, target: Tensor, perceptual: Lpips | None = None) -> dict[str, Tensor]:
    """Every metric of each image, {name: (B,) float64}; `lpips` only with its network.

    Raises:
        ValueError: a batch that is not float32 RGB in [0, 1] (see `check_images`).
    """
    check_images(prediction, "reconstructions")
    check_images(target, "targets")
    if prediction.shape != target.shape:
        raise ValueError(f"reconstructions are {tuple(prediction.shape)}, targets {tuple(target.shape)}; must be equal")
    with torch.no_grad(), torch.autocast(target.device.type, enabled=False):
        difference = prediction - target
        squared = _mean(torch.square(difference))
        scores = {
            "psnr": (-10 * torch.log10(squared)).clamp(max=PSNR_CAP),
            "ssim": ssim(prediction, target).double(),
            "mse": squared,
            "mae": _mean(difference.abs()),
        }
        if perceptual is not None:
            scores["lpips"] = perceptual(prediction, target).double()  # takes [0, 1], scales to [-1, 1] itself
    return {name: scores[name] for name in METRICS if name in scores}


def check_images(images: Tensor, what: str) -> None:
    """Refuse what is not float32 RGB in [0, 1], in words that name the usual mistake.

    Raises:
        ValueError: another dtype or shape; values outside [0, 1] or not finite.
    """
    if images.dtype != torch.float32:
        raise ValueError(f"{what} are {images.dtype}; metrics need float32, computed outside autocast")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{what} have shape {tuple(images.shape)}; metrics need (B, 3, H, W)")
    low, high = (value.item() for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"{what} span [{low:.4g}, {high:.4g}]; metrics need RGB in [0, 1]: {_mistake(low, high)}")


def check_eight_bit(targets: Tensor) -> None:
    """Refuse targets that cannot be 8-bit photographs, such as normalised ones clipped to [0, 1].

    Clipping hides the range, but a photograph's values are whole multiples of 1/255 and those are not.

    Raises:
        ValueError: some value is not a multiple of 1/255.
    """
    levels = targets * 255
    if (levels - levels.round()).abs().max().item() > _EIGHT_BIT_TOLERANCE:
        raise ValueError("targets are not multiples of 1/255; they must be the 8-bit photographs, not normalised ones")


def _mistake(low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "some values are not finite"
    if low >= 0 and high > 2:
        return "divide by 255"
    if low >= -1 and high <= 1:
        return "these look like [-1, 1], use (x + 1) / 2"
    return "undo the ImageNet normalisation, or clamp"


def _mean(values: Tensor) -> Tensor:
    """(B, 3, H, W) → (B,) float64. Short float32 sums keep full accuracy without a float64 copy of the image."""
    return values.sum(dim=-1).sum(dim=(1, 2), dtype=torch.float64) / values[0].numel()


def bootstrap_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of `resamples` bootstrap samples of the images: (N, K) scores → (resamples, K).

    The K columns are resampled together, so differences between columns are paired. Memory is bounded.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, 2_000_000 // count)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        picks = generator.integers(count, size=(stop - start, count))
        for column in range(values.shape[1]):
            means[start:stop, column] = values[:, column][picks].mean(axis=1)
    return means


def summarise(scores: Mapping[str, NDArray[np.float64]], resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Mean, population standard deviation, extremes, and the bootstrap 95 % interval of the mean, per metric."""
    names = list(scores)
    table = np.stack([scores[name] for name in names], axis=1)  # (N, K)
    low, high = np.quantile(bootstrap_means(table, resamples, seed), (0.025, 0.975), axis=0)
    return {
        name: {
            "mean": float(table[:, k].mean()),
            "std": float(table[:, k].std()),
            "min": float(table[:, k].min()),
            "max": float(table[:, k].max()),
            "low": float(low[k]),
            "high": float(high[k]),
        }
        for k, name in enumerate(names)
    }

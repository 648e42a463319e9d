"""The metric contract: per image, RGB, float32 in [0, 1], computed in float64, no border crop, outside autocast.

Every metric takes two batches (B, 3, H, W) and returns one number per image (B,), float64. docs/metrics.md lists
the conventions that differ between libraries, and this project's choices.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.core.runtime import computing_in
from pipeline.metrics import similarity
from pipeline.metrics.perceptual import FeatureDistance
from pipeline.metrics.similarity import Lpips
from pipeline.metrics.table import PSNR_CAP, Pair, all_metrics, decibels, mean_of_each, peak_ratio

__all__ = [
    "PSNR_CAP",
    "capped_psnr",
    "check_eight_bit",
    "check_images",
    "decibels",
    "mae",
    "mse",
    "psnr",
    "score",
    "ssim",
]

SSIM_PIXELS = 2**17  # pixels at a time on the CPU, whose float64 intermediates fit a core's share of the cache

_EIGHT_BIT_TOLERANCE = 1e-3  # grey levels; float32 represents k/255 to 1e-5 of a level


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image, (B,) float64."""
    return Pair(prediction, target).squared


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of each image, (B,) float64."""
    return mean_of_each(Pair(prediction, target).difference.abs())


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, 10·log10(1 / MSE); inf for identical images."""
    return peak_ratio(mse(prediction, target))


def capped_psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """`psnr`, at most `PSNR_CAP`, so that identical images can enter means, tables and files."""
    return decibels(mse(prediction, target))


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, (B,) float64: `similarity.ssim` in float64, without gradients.

    float32 would not do: there the variance of a flat, bright area is the difference of two nearly equal numbers, and
    its rounding is large beside C2 = 0.0009 (1.2e-4 of SSIM on a white page). On the CPU, a few colour planes are
    computed at a time, so that the intermediates stay in the cache.
    """
    with torch.no_grad():
        height, width = target.shape[-2:]
        count = max(1, SSIM_PIXELS // (height * width)) if target.device.type == "cpu" else len(target) * 3
        planes = (images.flatten(0, 1)[:, None].split(count) for images in (prediction, target))
        parts = [similarity.ssim(x.double(), y.double()) for x, y in zip(*planes, strict=True)]
        return torch.cat(parts).view(-1, target.shape[1]).mean(dim=1)


def score(
    prediction: Tensor, target: Tensor, perceptual: Lpips | None = None, judge: FeatureDistance | None = None
) -> dict[str, Tensor]:
    """Every metric of each image, {name: (B,) float64}; `lpips` only with `perceptual`, `features` only with `judge`.

    Raises:
        ValueError: a batch that is not float32 RGB in [0, 1] (see `check_images`).
    """
    check_images(prediction, "reconstructions")
    check_images(target, "targets")
    if prediction.shape != target.shape:
        raise ValueError(f"reconstructions are {tuple(prediction.shape)}, targets {tuple(target.shape)}; must be equal")
    with torch.no_grad(), computing_in("fp32", target.device):
        pair = Pair(prediction, target, perceptual, judge)
        scores = {name: metric.measure(pair) for name, metric in all_metrics().items()}
    return {name: values for name, values in scores.items() if values is not None}


def check_images(images: Tensor, what: str) -> None:
    """Check that `images` are (B, 3, H, W) float32 RGB in [0, 1].

    Raises:
        ValueError: another dtype or shape, or values outside [0, 1] or not finite; the message names the usual mistake.
    """
    if images.dtype != torch.float32:
        raise ValueError(f"{what} are {images.dtype}; metrics need float32, computed outside autocast")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{what} have shape {tuple(images.shape)}; metrics need (B, 3, H, W)")
    low, high = (value.item() for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"{what} span [{low:.4g}, {high:.4g}]; metrics need RGB in [0, 1]: {_mistake(low, high)}")


def check_eight_bit(targets: Tensor) -> None:
    """Refuse targets that cannot be 8-bit photographs, such as normalised images clipped to [0, 1].

    Clipping hides the wrong range, but a photograph's values are multiples of 1/255, and normalised values are not.

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

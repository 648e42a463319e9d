"""The metric contract: per image, RGB, float32 in [0, 1], no border crop, outside autocast.

Every function takes two batches (B, 3, H, W) and returns one number per image (B,), float64. Conventions
that differ between libraries, and which of them is used here, are listed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics import similarity
from pipeline.metrics.similarity import C1, C2, SIGMA, WINDOW, Lpips
from pipeline.metrics.table import Pair, all_metrics, mean_of_each

__all__ = [
    "PSNR_CAP",
    "bootstrap_means",
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

PSNR_CAP = 100.0  # dB; what an identical image counts as in means, tables and files

PLANES = 16  # colour planes in flight: four cache lines of float32, and all of it stays in a core's share of the cache

_EIGHT_BIT_TOLERANCE = 1e-3  # of one grey level: float32 holds k/255 to 1e-5 of a level


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image, (B,) float64 (rows summed in float32, the rest in float64)."""
    return Pair(prediction, target).squared


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of each image, (B,) float64."""
    return mean_of_each((prediction - target).abs())


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, 10·log10(1 / MSE); inf for identical images."""
    return _psnr_of(mse(prediction, target))


def decibels(squared: Tensor) -> Tensor:
    """PSNR of mean squared errors, with `PSNR_CAP` for what lies above it."""
    return _psnr_of(squared).clamp(max=PSNR_CAP)


def capped_psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """`psnr`, with `PSNR_CAP` for what lies above it: identical images have a place in means, tables and files."""
    return decibels(mse(prediction, target))


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, (B,) float64, exactly as `similarity.ssim` defines it, without gradients.

    On the CPU computed `PLANES` colour planes at a time, laid out so that the window runs over all of them at once:
    three times as fast.
    """
    with torch.no_grad(), torch.autocast(target.device.type, enabled=False):
        if target.device.type != "cpu" or min(target.shape[-2:]) < WINDOW:
            return similarity.ssim(prediction, target).double()
        pairs = zip(prediction.flatten(0, 1).split(PLANES), target.flatten(0, 1).split(PLANES), strict=True)
        return torch.cat([_ssim_of_planes(x, y) for x, y in pairs]).double().view(-1, target.shape[1]).mean(dim=1)


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
        pair = Pair(prediction, target, perceptual)
        scores = {name: metric.measure(pair) for name, metric in all_metrics().items()}
    return {name: values for name, values in scores.items() if values is not None}


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


def _psnr_of(squared: Tensor) -> Tensor:
    return -10 * torch.log10(squared)


def _planes_first(images: Tensor) -> Tensor:
    """Planes (P, H, W) → (1, P, H, W) with the planes innermost in memory: a convolution runs over all at once."""
    planes, height, width = images.shape
    flat = torch.empty(height * width, planes).copy_(images.reshape(planes, -1).t())
    return flat.view(1, height, width, planes).permute(0, 3, 1, 2)


def _ssim_of_planes(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM of each pair of planes, (P, H, W) → (P,): `similarity.ssim_map`, in as few passes as it can be done."""
    planes = len(x)
    x, y = _planes_first(x), _planes_first(y)
    offsets = torch.arange(WINDOW) - WINDOW // 2
    window = torch.softmax(-(offsets.double() ** 2) / (2 * SIGMA**2), dim=0).float()
    down = window.view(1, 1, WINDOW, 1).repeat(planes, 1, 1, 1)

    def blur(image: Tensor, add: float = 0.0) -> Tensor:
        once = F.conv2d(image, down, groups=planes)
        return F.conv2d(once, down.transpose(2, 3), torch.full((planes,), add), groups=planes)

    s, d = (x + y).sub_(1), x - y
    mean_s, mean_d = blur(s), blur(d)
    square_s, square_d = blur(s.square_(), add=2 * C2), blur(d.square_(), add=2 * C1)
    small = torch.addcmul(torch.tensor(2 * C1), mean_d, mean_d)  # mean_d² + 2·C1
    var_d = square_d.sub_(small).clamp_(min=0)
    structure = square_s.addcmul_(mean_s, mean_s, value=-1).add_(var_d)  # var_s + var_d + 2·C2
    luminance = mean_s.add_(1).square_().add_(small)  # (mean_s + 1)² + mean_d² + 2·C1
    above = torch.sub(luminance, small, alpha=2).add_(4 * C1).mul_(torch.sub(structure, var_d, alpha=2))
    similarities = above.div_(luminance.mul_(structure))
    return similarities.permute(0, 2, 3, 1).reshape(-1, planes).mean(dim=0)


def bootstrap_means(
    values: NDArray[np.float64], photographs: Sequence[str], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means of `resamples` cluster bootstrap samples: (N, K) scores of images of N `photographs` → (resamples, K).

    Images of one photograph are not independent, so photographs are drawn: as many as there are, each with all of its
    images, and the mean is over all of these images (a ratio of sums). Where every image is a photograph of its own,
    this is the plain bootstrap. The K columns are resampled together, so differences between columns are paired.
    Memory is bounded.

    C. A. Field and A. H. Welsh, Bootstrapping clustered data, J. R. Statist. Soc. B 69 (2007), 369-390. With few
    photographs intervals come out too narrow: A. C. Cameron, J. B. Gelbach and D. L. Miller, Bootstrap-based
    improvements for inference with clustered errors, Rev. Econ. Stat. 90 (2008), 414-427.
    """
    generator = np.random.default_rng(seed)
    cluster = _clusters(photographs)  # (N,)
    sizes = np.bincount(cluster)
    sums = np.stack([np.bincount(cluster, column) for column in values.T], axis=1)  # (photographs, K)
    count = len(sizes)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, 2_000_000 // count)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        picks = generator.integers(count, size=(stop - start, count))
        images = sizes[picks].sum(axis=1)
        for column in range(values.shape[1]):
            means[start:stop, column] = sums[:, column][picks].sum(axis=1) / images
    return means


def summarise(
    scores: Mapping[str, NDArray[np.float64]], photographs: Sequence[str], resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """Mean, population standard deviation and extremes over the images, per metric.

    And the 95 % interval of the mean, by resampling `photographs`, which names what each image shows.
    """
    names = list(scores)
    table = np.stack([scores[name] for name in names], axis=1)  # (N, K)
    low, high = np.quantile(bootstrap_means(table, photographs, resamples, seed), (0.025, 0.975), axis=0)
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


def _clusters(photographs: Sequence[str]) -> NDArray[np.int64]:
    """For each image the number of its photograph, (N,), counted in the order in which photographs first appear."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in photographs], np.int64)

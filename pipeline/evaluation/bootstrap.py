"""Means over images with their intervals: photographs are resampled, each with all its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def bootstrap_means(
    values: NDArray[np.float64], photographs: Sequence[str], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means of cluster bootstrap samples.

    Images of one photograph are not independent, so each sample draws photographs: as many as there are, each with all
    of its images. The mean is over all of these images (a ratio of sums). If every image is a photograph of its own,
    this is the plain bootstrap. Memory is bounded.

    C. A. Field and A. H. Welsh, Bootstrapping clustered data, J. R. Statist. Soc. B 69 (2007), 369-390. With few
    photographs, intervals are too narrow: A. C. Cameron, J. B. Gelbach and D. L. Miller, Bootstrap-based
    improvements for inference with clustered errors, Rev. Econ. Stat. 90 (2008), 414-427.

    Args:
        values: (N, K) scores of N images. The K columns are resampled together: differences of columns are paired.
        photographs: the photograph of each image, N names.

    Returns:
        (resamples, K) means.
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
    """Mean, population standard deviation and extremes over the images, and the 95 % interval of the mean.

    Args:
        scores: for each metric (N,) values.
        photographs: the photograph of each image, N names, which the bootstrap resamples.
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
    """For each image, the number of its photograph, (N,), in the order in which photographs first appear."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in photographs], np.int64)

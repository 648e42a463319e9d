"""Baselines that need no decoder, scored beside it.

Floors use less than the features (the mean colour; a thumbnail as small as the feature grid). The ceiling is a
standard codec with as many bytes as the features.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

JPEG_QUALITIES = (1, 100)
MOST_BYTES = 12  # of a pixel at most: three coefficients, each a code of 16 and a value of 11 bits


def mean_colour(crops: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Mean RGB in [0, 1] over batches of 8-bit crops (B, H, W, 3), float32 (3,). Exact: sums are integers."""
    total, pixels = np.zeros(3, dtype=np.int64), 0
    for batch in crops:
        total += batch.sum(axis=(0, 1, 2), dtype=np.int64)
        pixels += batch.size // 3
    return torch.from_numpy(total / pixels / 255).float()


def flat(targets: Tensor, colour: Tensor) -> Tensor:
    """One colour (3,) in every pixel of images shaped like `targets` (B, 3, H, W)."""
    return colour.to(targets).view(1, 3, 1, 1).expand_as(targets).contiguous()


def thumbnail(targets: Tensor, grid: tuple[int, int]) -> Tensor:
    """Shrink (B, 3, H, W) to `grid` and enlarge it again, bicubic and antialiased, clamped to [0, 1].

    Only with `antialias` is torch's kernel Keys' (a = −0.5), as in Pillow and MATLAB.
    """
    small = F.interpolate(targets, grid, mode="bicubic", antialias=True)
    return F.interpolate(small, targets.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)


def jpeg(crops: NDArray[np.uint8], budget: int, workers: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Encode each image (B, H, W, 3) as the best JPEG of at most `budget` bytes (4:4:4, optimised tables); decode it.

    The quality is 1 even if that takes more bytes, and at most 100 even if that takes fewer.

    Returns:
        The decoded images, and the bytes of each.
    """
    with ThreadPoolExecutor(workers) as pool:  # divides one batch among threads
        files = list(pool.map(lambda crop: _largest_jpeg(crop, budget), crops))
        decoded = np.stack(list(pool.map(lambda file: np.asarray(Image.open(io.BytesIO(file))), files)))
    return decoded, np.array([len(file) for file in files])


def _largest_jpeg(crop: NDArray[np.uint8], budget: int) -> bytes:
    image = Image.fromarray(crop)
    low, high = JPEG_QUALITIES
    best = _encode(image, high)
    if len(best) <= budget:
        return best
    best = _encode(image, low)
    while high - low > 1:  # size grows with quality, almost monotonically
        middle = (low + high) // 2
        file = _encode(image, middle)
        if len(file) <= budget:
            low, best = middle, file
        else:
            high = middle
    return best


def _encode(image: Image.Image, quality: int) -> bytes:
    # optimised tables need room for the whole file, and Pillow leaves 2 bytes a pixel: noise takes more
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, MOST_BYTES * image.width * image.height)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()

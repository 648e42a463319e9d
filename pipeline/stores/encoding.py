"""Conversion between float32 features and the stored types; no other module interprets stored numbers.

    float32, float16, bfloat16   rounded to nearest
    int8                         per row and channel: x = minimum + step · (q + 128), q in −128…127

The int8 code is affine, not symmetric, because after a ReLU half of a symmetric code would never be used. The smallest
value is kept exactly, so zeros stay zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import StoreError

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
TURNED_AT_ONCE = 512  # positions
ROUNDING_LIMIT = 0.01  # largest error of a stored type, relative to the layer's standard deviation
LEVELS = 255  # steps between the smallest and the largest value of an int8 channel


class Encoded(NamedTuple):
    """Features as they are stored: values (B, C, H, W), and for int8 their scales (B, 2, C): step, minimum."""

    values: Tensor
    scales: Tensor | None = None


def encode(features: Tensor, dtype: str) -> Encoded:
    """Convert features (B, C, H, W) of any floating type to `dtype`, on the same device and in the same memory format.

    `row_major` or `as_numpy` then convert them to the memory order of the store.
    """
    if dtype == "int8":
        return _quantise(features.float())
    return Encoded(features.to(TORCH_DTYPES[dtype]))


def decode(values: Tensor, scales: Tensor | None, dtype: str) -> Tensor:
    """Stored values (B, C, H, W), with the scales (B, 2, C) of int8, as new float32 features on the same device.

    bfloat16 values may be given as uint16, the type that NumPy uses for them.
    """
    if dtype == "bfloat16":
        values = values.view(torch.bfloat16)
    if dtype != "int8":
        return values.to(torch.float32, copy=True)
    if scales is None:
        raise ValueError("int8 features cannot be read without their scales")
    step, minimum = scales[:, 0, :, None, None], scales[:, 1, :, None, None]  # (B, C, 1, 1)
    return values.to(torch.float32).add_(128).mul_(step).add_(minimum)


def as_stored(features: Tensor, dtype: str) -> Tensor:
    """Features (B, C, H, W) as read back from a store of `dtype`: new, float32, on the same device."""
    encoded = encode(features, dtype)
    return decode(encoded.values, encoded.scales, dtype)


def as_numpy(values: Tensor) -> NDArray[np.generic]:
    """Values on the CPU as the store's NumPy type, row-major; shares their memory if they are row-major already."""
    values = row_major(values)
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


def row_major(values: Tensor, each: Callable[..., Iterable[None]] = map) -> Tensor:
    """(B, C, H, W) contiguous in this order.

    Channels-last values on the CPU are transposed in blocks that fit a processor's cache, because torch's own copy
    takes twice as long. `each` maps over the images: the builtin `map`, or that of a pool of threads.
    """
    if values.is_contiguous() or values.device.type != "cpu":
        return values.contiguous()
    turned = torch.empty(values.shape, dtype=values.dtype)
    bits = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[values.element_size()]
    list(each(_turn, turned.view(bits).flatten(2).numpy(), values.view(bits).flatten(2).numpy()))
    return turned


def _turn(target: NDArray[np.unsignedinteger], image: NDArray[np.unsignedinteger]) -> None:
    for first in range(0, image.shape[1], TURNED_AT_ONCE):  # (C, H·W)
        block = slice(first, first + TURNED_AT_ONCE)
        target[:, block] = image[:, block]


def rgb(crops: Tensor) -> Tensor:
    """Pixels (B, H, W, 3) uint8 as images (B, 3, H, W) float32 in [0, 1], channels-last in memory, same device."""
    return crops.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def check_range(features: Tensor, bound: Tensor, dtype: str, what: str) -> None:
    """Refuse values that `dtype` cannot represent.

    Args:
        features: (B, C, H, W) before encoding.
        bound: (B, C), an upper bound of the magnitudes, up to rounding; if it is small enough, no element is read.
        what: the name of the layer, for the message.

    Raises:
        StoreError: a feature is NaN or infinite, or too large for `dtype`.
    """
    # of int8, the difference between the largest and the smallest value must fit float32 as well
    largest = torch.finfo(torch.float32).max / 2 if dtype == "int8" else torch.finfo(TORCH_DTYPES[dtype]).max
    if bool((bound < largest / 2).all()):
        return
    if not bool(torch.isfinite(features).all()):
        raise StoreError(
            f"{what} gives features that are not finite; use weights that fit the network, or extract.precision: fp32"
        )
    peak = float(features.abs().amax())
    if peak > largest:
        raise StoreError(
            f"{what} gives features up to {peak:.4g}, more than {dtype} can hold ({largest:.6g}); "
            "set store.dtype to bfloat16 or float32"
        )


def check_rounding(share: float, dtype: str, what: str) -> None:
    """Check the rounding error of a layer as `dtype`.

    Args:
        share: the error divided by the layer's standard deviation.
        what: the name of the layer, for the message.

    Raises:
        StoreError: the share exceeds `ROUNDING_LIMIT`.
    """
    if share > ROUNDING_LIMIT:
        # int8 has a minimum and a step for each channel, so neither an offset nor a small unit costs anything
        other = "bfloat16" if dtype == "int8" else "int8"
        raise StoreError(
            f"{what} as {dtype} has a rounding error of {share:.2%} of its deviation, more than {ROUNDING_LIMIT:.0%}; "
            f"set store.dtype to {other} or float32"
        )


def _quantise(features: Tensor) -> Encoded:
    minimum, maximum = features.amin((2, 3)), features.amax((2, 3))  # (B, C)
    step = (maximum - minimum) / LEVELS
    step = torch.where(step > 0, step, torch.ones_like(step))
    codes = (features - minimum[..., None, None]).div_(step[..., None, None]).round_().clamp_(0, LEVELS)
    return Encoded((codes - 128).to(torch.int8), torch.stack((step, minimum), dim=1))

"""The two-dimensional Haar transform, orthonormal, equal to PyWavelets' `haar`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import ShapeError

Bands = tuple[Tensor, Tensor, Tensor, Tensor]


def haar_dwt(image: Float[Tensor, "*b h w"]) -> Bands:
    """One level of the Haar transform.

    With [a b; c d] the four pixels of a 2×2 block: LL = (a+b+c+d)/2, LH = (a+b−c−d)/2 (change from row
    to row), HL = (a−b+c−d)/2 (from column to column), HH = (a−b−c+d)/2. These are cA, cH, cV and cD of
    `pywt.dwt2(image, "haar")`. The transform keeps the sum of squares (Mallat 1989).

    Args:
        image: (..., H, W), H and W even.

    Returns:
        LL, LH, HL, HH, each (..., H/2, W/2).

    Raises:
        ShapeError: H or W is odd.
    """
    height, width = image.shape[-2:]
    if height % 2 or width % 2:
        raise ShapeError(f"the Haar transform needs even edges, but these are {height}×{width}; pad or crop the image")
    a, b = image[..., 0::2, 0::2], image[..., 0::2, 1::2]
    c, d = image[..., 1::2, 0::2], image[..., 1::2, 1::2]
    return _butterfly(a, b, c, d)


def haar_idwt(
    ll: Float[Tensor, "b c h w"],
    lh: Float[Tensor, "b c h w"],
    hl: Float[Tensor, "b c h w"],
    hh: Float[Tensor, "b c h w"],
) -> Float[Tensor, "b c 2*h 2*w"]:
    """Inverse of `haar_dwt`: four bands (B, C, H, W) to the image (B, C, 2H, 2W)."""
    blocks = torch.stack(_butterfly(ll, lh, hl, hh), dim=2)  # (B, C, 4, H, W): the pixels a, b, c, d
    return F.pixel_shuffle(blocks.flatten(1, 2), 2)


def _butterfly(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Bands:
    """The 4×4 Hadamard matrix over 2: symmetric and orthogonal, hence its own inverse."""
    top, bottom, top_change, bottom_change = a + b, c + d, a - b, c - d
    return (
        (top + bottom) / 2,
        (top - bottom) / 2,
        (top_change + bottom_change) / 2,
        (top_change - bottom_change) / 2,
    )

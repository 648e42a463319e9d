"""Second moments of k×k patches, computed without building the patches.

The sum over all positions of the product of two patch entries, at offsets a and b from the centre, depends only on
the lag b − a, except at the border. So the (C·k²)² Gram matrix needs (2k−1)²/2 products of C×C over the image instead
of k⁴ (13 instead of 81 for k = 3), and thin products along the border. The unfolded patches, k² times the size of the
features, are never built.

Images are padded with k − 1 zeros, the longest lag, and are contiguous in memory, so a lag is a shift of the flat
array: entries shifted over an edge meet zeros, and no shifted copy is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Offset = tuple[int, int]  # rows, columns
Part = tuple[int, int]  # channels of one source, and its kernel k


def by_kernel(parts: Sequence[Part]) -> dict[int, list[int]]:
    """Kernels, the largest first, with the positions of their parts: the order of all patch entries."""
    kernels = sorted({kernel for _, kernel in parts}, reverse=True)
    return {kernel: [place for place, part in enumerate(parts) if part[1] == kernel] for kernel in kernels}


def offsets(kernel: int) -> list[Offset]:
    """Positions of a k×k patch relative to its centre, in the order of `unfold`."""
    reach = range(-(kernel // 2), kernel // 2 + 1)
    return list(product(reach, reach))


def patch_gram(x: Float[Tensor, "c b h w"], kernel: int) -> Float[Tensor, "ckk ckk"]:
    """UᵀU for U = the zero-padded k×k patches of `x` at every position, columns ordered (C, k, k) as by `unfold`."""
    places, padded = offsets(kernel), _pad(x, kernel)
    lags: dict[Offset, Tensor] = {}
    gram = x.new_empty(len(places), len(places), len(x), len(x))
    for i, a in enumerate(places):
        for j, b in enumerate(places[i:], start=i):
            lag = (b[0] - a[0], b[1] - a[1])
            if lag not in lags:
                lags[lag] = _shifted(padded, padded, lag)
            block = lags[lag] - _unreached(padded, kernel, a, lag)
            gram[i, j] = block
            gram[j, i] = block.T
    return gram.permute(2, 0, 3, 1).flatten(2).flatten(0, 1)  # (C, k·k, C, k·k) to two dimensions


def patch_cross(x: Float[Tensor, "c b h w"], y: Float[Tensor, "t b h w"], kernel: int) -> Float[Tensor, "ckk t"]:
    """UᵀY for the same patches U, and Y the values of `y` at every position."""
    padded, values = _pad(x, kernel), _pad(y, kernel)
    parts = [_shifted(values, padded, offset).T for offset in offsets(kernel)]
    return torch.stack(parts, dim=1).flatten(0, 1)


def patches(x: Float[Tensor, "c b h w"], kernel: int) -> Float[Tensor, "ckk b h w"]:
    """The zero-padded k×k patches themselves, k² times the memory; used for the smaller of two kernels, usually 1."""
    if kernel == 1:
        return x
    unfolded = F.unfold(x.transpose(0, 1), kernel, padding=kernel // 2)  # (B, C·k·k, H·W)
    return unfolded.transpose(0, 1).unflatten(2, x.shape[2:])


def _pad(x: Tensor, kernel: int) -> Tensor:
    return F.pad(x, [kernel - 1] * 4).contiguous()  # (C, B, H + 2k − 2, W + 2k − 2)


def _shifted(x: Tensor, y: Tensor, lag: Offset) -> Tensor:
    """Σ x(q) y(q + lag)ᵀ over all positions q of padded images."""
    shift, length = lag[0] * x.shape[3] + lag[1], x[0].numel()
    here = x.flatten(1)[:, max(0, -shift) : length - max(0, shift)]
    there = y.flatten(1)[:, max(0, shift) : length - max(0, -shift)]
    return here @ there.T


def _unreached(padded: Tensor, kernel: int, offset: Offset, lag: Offset) -> Tensor:
    """The part of `_shifted` from positions q at which no patch has its entry `offset`: its centre would be outside."""
    pad, (height, width) = kernel - 1, (size - 2 * kernel + 2 for size in padded.shape[2:])
    rows, kept = _edge(offset[0], height)
    columns, _ = _edge(offset[1], width)
    total = padded.new_zeros(len(padded), len(padded))
    for (top, bottom), (left, right) in ((rows, (0, width)), (kept, columns)):
        if bottom > top and right > left:
            here = padded[:, :, pad + top : pad + bottom, pad + left : pad + right]
            y, x = pad + lag[0], pad + lag[1]
            there = padded[:, :, y + top : y + bottom, x + left : x + right]
            total += here.flatten(1) @ there.flatten(1).T
    return total


def _edge(offset: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Positions of 0 … size − 1 that centre + offset never reaches, and those that it reaches."""
    beyond = min(abs(offset), size)
    return ((0, beyond), (beyond, size)) if offset >= 0 else ((size - beyond, size), (0, size - beyond))

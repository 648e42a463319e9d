"""Convolution blocks shared by several decoders."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """k×k convolution + BatchNorm + ReLU at an unchanged grid (zero padding)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def transposed_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """ConvTranspose 4×4/2 + BatchNorm + ReLU: the grid doubles."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def halved_widths(channels: int, steps: int, floor: int) -> list[int]:
    """Channels before and after each of `steps` doublings of the grid: halved, but not below `floor`."""
    widths = [channels]
    for _ in range(steps):
        widths.append(max(widths[-1] // 2, floor))
    return widths


def transposed_ladder(widths: list[int]) -> nn.Sequential:
    """One transposed convolution from each width to the next; an empty ladder is the identity."""
    return nn.Sequential(*(transposed_norm_relu(a, b) for a, b in pairwise(widths)))

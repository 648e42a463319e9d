"""A vector C×1×1 laid out on a grid, for decoders that work on one."""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn

from pipeline.core.sources import FeatureShape, ImageSize

STEP = 32  # pixels under each position of the grid, or what divides both edges of the image


def laid_out(shape: FeatureShape, image: ImageSize, width: int) -> FeatureShape:
    """The features that a decoder of grids works on: `shape`, or `width` channels on a grid where it is a vector."""
    step = gcd(STEP, image.height, image.width)
    grid = image.height // step, image.width // step
    return shape if (shape.height, shape.width) != (1, 1) or grid == (1, 1) else FeatureShape(width, *grid)


class Spread(nn.Module):
    """(B, C, 1, 1) → (B, D, h, w), each position its own affine map of the vector; nothing for what is laid out."""

    def __init__(self, shape: FeatureShape, laid: FeatureShape) -> None:
        super().__init__()
        self.laid = (laid.channels, laid.height, laid.width)
        self.map = nn.Identity() if shape == laid else nn.Linear(shape.channels, laid.elements)

    def forward(self, features: Tensor) -> Tensor:
        return features if isinstance(self.map, nn.Identity) else self.map(features.flatten(1)).unflatten(1, self.laid)

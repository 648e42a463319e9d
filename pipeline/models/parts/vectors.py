"""Expansion of a vector C×1×1 to a grid, for decoders that work on grids."""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn

from pipeline.core.sources import FeatureShape, ImageSize

STEP = 32  # pixels under each position of the grid, if it divides both edges of the image


def laid_out(shape: FeatureShape, image: ImageSize, width: int) -> FeatureShape:
    """The shape on which a decoder of grids works: `shape` itself, or for a vector `width` channels on a grid."""
    step = gcd(STEP, image.height, image.width)
    grid = image.height // step, image.width // step
    return shape if (shape.height, shape.width) != (1, 1) or grid == (1, 1) else FeatureShape(width, *grid)


class Spread(nn.Module):
    """(B, C, 1, 1) → (B, D, h, w), each position an affine map of the vector; the identity if `shape` is `laid`."""

    def __init__(self, shape: FeatureShape, laid: FeatureShape) -> None:
        super().__init__()
        self.laid = (laid.channels, laid.height, laid.width)
        self.map = nn.Identity() if shape == laid else nn.Linear(shape.channels, laid.elements)

    def forward(self, features: Tensor) -> Tensor:
        return features if isinstance(self.map, nn.Identity) else self.map(features.flatten(1)).unflatten(1, self.laid)

"""The channels of all sources, concatenated and mixed by convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, AlignedFusion


@FUSIONS.register("concat")
class Concat(AlignedFusion):
    """Channels concatenated, then twice 3×3 + BatchNorm + ReLU back to 256 channels."""

    def __init__(self, shapes: Sequence[FeatureShape], options: AlignedFusion.Options) -> None:
        super().__init__(shapes, options)
        joined, channels = len(shapes) * options.channels, options.channels
        self.mix = nn.Sequential(*_conv(joined, channels), *_conv(channels, channels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.mix(torch.cat(self.align(features), dim=1))


def _conv(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )

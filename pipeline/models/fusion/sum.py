"""The sum of all sources."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.models.common.fusion import FUSIONS, AlignedFusion


@FUSIONS.register("sum")
class Sum(AlignedFusion):
    """Σᵢ Pᵢ xᵢ with Pᵢ a 1×1 convolution without bias; there are no other parameters, and no activation."""

    def projection(self, channels: int, width: int) -> nn.Module:
        return nn.Conv2d(channels, width, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        first, *others = self.align(features)
        return sum(others, first)

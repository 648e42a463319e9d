"""The weight of each source depends on the position in the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.core.section import Count
from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, AlignedFusion


@FUSIONS.register("routed")
class Routed(AlignedFusion):
    """Σᵢ wᵢ(p) xᵢ(p) at every position p, with w the softmax over the sources of scores of the features there.

    One small network scores every source; the BatchNorm of a projection can favour its source. Weights start equal.
    """

    class Options(AlignedFusion.Options):
        hidden: Count

    def __init__(self, shapes: Sequence[FeatureShape], options: Options) -> None:
        super().__init__(shapes, options)
        # no bias at the end: the softmax over the sources would cancel it
        last = nn.Conv2d(options.hidden, 1, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.score = nn.Sequential(nn.Conv2d(options.channels, options.hidden, 1), nn.ReLU(), last)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        aligned = self.align(features)
        shares = self._shares(aligned)
        first, *others = (shares[:, place, None] * x for place, x in enumerate(aligned))
        return sum(others, first)

    @torch.no_grad()
    def weight_maps(self, features: Sequence[Tensor]) -> Tensor:
        return self._shares(self.align(features))

    def _shares(self, aligned: Sequence[Tensor]) -> Tensor:
        return torch.softmax(torch.cat([self.score(x) for x in aligned], dim=1).float(), dim=1)  # (B, sources, H, W)

"""The weight of each source depends on the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.core.section import Count
from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, AlignedFusion


@FUSIONS.register("attention")
class Attention(AlignedFusion):
    """Σᵢ wᵢ xᵢ with w the softmax over the sources of scores of their global means.

    One small network scores every source, so only the projections differ between sources; the BatchNorm of a
    projection can favour its source.
    """

    class Options(AlignedFusion.Options):
        hidden: Count

    def __init__(self, shapes: Sequence[FeatureShape], options: Options) -> None:
        super().__init__(shapes, options)
        # no bias at the end: the softmax over the sources would cancel it
        self.score = nn.Sequential(
            nn.Linear(options.channels, options.hidden), nn.ReLU(), nn.Linear(options.hidden, 1, bias=False)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        aligned = self.align(features)
        shares = self._shares(aligned)[..., None, None, None]  # (sources, B, 1, 1, 1)
        return torch.stack([share * x for share, x in zip(shares, aligned, strict=True)]).sum(0)

    @torch.no_grad()
    def source_weights(self, features: Sequence[Tensor]) -> Tensor:
        return self._shares(self.align(features)).mean(dim=1)

    def _shares(self, aligned: Sequence[Tensor]) -> Tensor:
        pooled = torch.stack([x.mean((2, 3)) for x in aligned])  # (sources, B, 256)
        return torch.softmax(self.score(pooled).squeeze(-1).float(), dim=0)

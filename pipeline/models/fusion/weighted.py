"""One learned scalar for each source."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, AlignedFusion


@FUSIONS.register("weighted")
class Weighted(AlignedFusion):
    """Σᵢ wᵢ xᵢ with w the softmax of learned scalars, equal at the start."""

    def __init__(self, shapes: Sequence[FeatureShape], options: AlignedFusion.Options) -> None:
        super().__init__(shapes, options)
        self.scores = nn.Parameter(torch.zeros(len(shapes)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        shares = torch.softmax(self.scores, dim=0)
        return torch.stack([share * x for share, x in zip(shares, self.align(features), strict=True)]).sum(0)

    def source_weights(self, features: Sequence[Tensor]) -> Tensor:
        return torch.softmax(self.scores, dim=0).detach()

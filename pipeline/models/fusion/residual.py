"""The shallowest source, corrected by the deeper ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.core.section import Count, Section
from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, Fusion, projected, require_several, resampled


@FUSIONS.register("residual")
class Residual(Fusion):
    """x₀ + Σᵢ Cᵢ(xᵢ): the features of the shallowest source, and a correction from each other one that starts at zero.

    So training starts at the read-out of the shallowest source alone, whatever is added: that of all sources would
    bring along what it learned by heart from deep ones. The shallowest source is the first one with the largest grid.
    """

    class Options(Section):
        channels: Count  # of the hidden layer of a correction

    def __init__(self, shapes: Sequence[FeatureShape], options: Options) -> None:
        """Raises ShapeError: fewer than two sources."""
        require_several(shapes)
        super().__init__(shapes, options)
        self.leader = max(range(len(shapes)), key=lambda place: shapes[place].height * shapes[place].width)
        self.shape = shapes[self.leader]
        self.correct = nn.ModuleList(
            nn.Identity()
            if place == self.leader
            else _correction(shape.channels, options.channels, self.shape.channels)
            for place, shape in enumerate(shapes)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        grid = (self.shape.height, self.shape.width)
        # the leader's own module is the identity
        first, *others = (resampled(correct(x), grid) for correct, x in zip(self.correct, features, strict=True))
        return sum(others, first)

    def zero_started(self) -> list[Tensor]:
        lasts = (each[-1] for each in self.correct if isinstance(each, nn.Sequential))
        return [last.weight for last in lasts if isinstance(last, nn.Conv2d)]


def _correction(channels: int, hidden: int, width: int) -> nn.Sequential:
    last = nn.Conv2d(hidden, width, 1)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(projected(channels, hidden), last)

"""No fusion: one source, unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.core.errors import ShapeError
from pipeline.core.section import Section
from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, Fusion


@FUSIONS.register("none")
class NoFusion(Fusion):
    """The identity of a single source."""

    def __init__(self, shapes: Sequence[FeatureShape], options: Section) -> None:
        """Raises ShapeError unless there is exactly one source."""
        super().__init__(shapes, options)
        if len(shapes) != 1:
            raise ShapeError(f"fusion none takes one source and got {len(shapes)}; choose a fusion in params.yaml")
        self.shape = shapes[0]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return features[0]

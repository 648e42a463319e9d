"""The contract of fusions: from standardised features of all sources to one feature map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ShapeError
from pipeline.core.registry import Registry
from pipeline.core.section import Count, Section, parse_section
from pipeline.core.sources import FeatureShape

MOST_SOURCES = 4


class Fusion(nn.Module, ABC):
    """Maps the features of all sources to one feature map of shape `shape`. Parameters are ordered as the sources."""

    class Options(Section):
        """The fusion's section of params.yaml."""

    shape: FeatureShape

    def __init__(self, shapes: Sequence[FeatureShape], options: Section) -> None:
        """A subclass takes its own `Options` and sets `shape`."""
        super().__init__()

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """Sources (B, Cᵢ, Hᵢ, Wᵢ), in the order of the shapes, to (B, C, H, W) of `shape`."""

    @abstractmethod
    def source_weights(self, features: Sequence[Tensor]) -> Float[Tensor, " sources"] | None:
        """The learned weight of each source, (sources,) with sum 1, averaged over the batch; None if there are none."""


class AlignedFusion(Fusion):
    """A fusion that first brings two to four sources to the same channels and the same grid."""

    class Options(Section):
        channels: Count
        grid: Literal["largest", "smallest"]

    def __init__(self, shapes: Sequence[FeatureShape], options: Options) -> None:
        """Raises ShapeError unless there are two to four sources."""
        if not 2 <= len(shapes) <= MOST_SOURCES:
            raise ShapeError(
                f"a fusion combines 2 to {MOST_SOURCES} sources and got {len(shapes)}; "
                "set ensemble.second … fourth in params.yaml, or fusion: none"
            )
        super().__init__(shapes, options)
        choose = max if options.grid == "largest" else min
        self.shape = FeatureShape(options.channels, *choose((shape.height, shape.width) for shape in shapes))
        width = options.channels
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(shape.channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            for shape in shapes
        )

    def align(self, features: Sequence[Tensor]) -> list[Float[Tensor, "b c h w"]]:
        """Each (B, Cᵢ, Hᵢ, Wᵢ) through its 1×1 + BatchNorm + ReLU to the common grid: (B, C, H, W)."""
        return [self._resize(project(x)) for project, x in zip(self.project, features, strict=True)]

    def _resize(self, x: Tensor) -> Tensor:
        size = (self.shape.height, self.shape.width)
        if x.shape[-2:] == size:
            return x
        if x.shape[-2] > size[0]:  # bilinear alone would skip pixels; antialias does not support bfloat16
            return F.interpolate(x.float(), size=size, mode="bilinear", antialias=True)
        return F.interpolate(x, size=size, mode="bilinear")


FUSIONS: Registry[type[Fusion]] = Registry("fusion", "pipeline.models.fusion")


def build_fusion(name: str, options: Mapping[str, Any], shapes: Sequence[FeatureShape]) -> Fusion:
    """Build the fusion `name` from its plain section of params.yaml.

    Raises:
        ParamsError: unknown name, or wrong options.
        ShapeError: too few or too many sources for this fusion.
    """
    fusion = FUSIONS.get(name)
    return fusion(shapes, parse_section(fusion.Options, options, f"fusions.{name}"))

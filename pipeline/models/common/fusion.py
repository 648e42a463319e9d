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


class Fusion(nn.Module, ABC):
    """Maps the features of all sources to one feature map of shape `shape`. Parameters are ordered as the sources."""

    class Options(Section):
        """The fusion's section of params.yaml."""

    shape: FeatureShape
    leader: int | None = (
        None  # position of the source from whose read-out alone training starts; None: from that of all
    )

    def __init__(self, shapes: Sequence[FeatureShape], options: Section) -> None:
        """A subclass takes its own `Options` and sets `shape`."""
        super().__init__()

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """Sources (B, Cᵢ, Hᵢ, Wᵢ), in the order of the shapes, to (B, C, H, W) of `shape`."""

    def source_weights(self, features: Sequence[Tensor]) -> Float[Tensor, " sources"] | None:
        """The learned weight of each source, (sources,) with sum 1, averaged over the batch; None if there are none."""
        maps = self.weight_maps(features)
        return None if maps is None else maps.mean(dim=(0, 2, 3))

    def zero_started(self) -> list[Tensor]:
        """Weights of last layers that start at zero, which optimisers treat as a decoder's last layer."""
        return []

    def weight_maps(self, features: Sequence[Tensor]) -> Float[Tensor, "b sources h w"] | None:
        """The weight of each source at each position, with sum 1 over the sources; None if it does not depend on it."""
        return None


class AlignedFusion(Fusion):
    """A fusion that first brings all sources to the same channels and the same grid."""

    class Options(Section):
        channels: Count
        grid: Literal["largest", "smallest"]

    def __init__(self, shapes: Sequence[FeatureShape], options: Options) -> None:
        """Raises ShapeError: fewer than two sources."""
        require_several(shapes)
        super().__init__(shapes, options)
        choose = max if options.grid == "largest" else min
        self.shape = FeatureShape(options.channels, *choose((shape.height, shape.width) for shape in shapes))
        self.project = nn.ModuleList(self.projection(shape.channels, options.channels) for shape in shapes)

    def projection(self, channels: int, width: int) -> nn.Module:
        """The module that brings one source to `width` channels."""
        return projected(channels, width)

    def align(self, features: Sequence[Tensor]) -> list[Float[Tensor, "b c h w"]]:
        """Each (B, Cᵢ, Hᵢ, Wᵢ) through its projection to the common grid: (B, C, H, W)."""
        grid = (self.shape.height, self.shape.width)
        return [resampled(project(x), grid) for project, x in zip(self.project, features, strict=True)]


def require_several(shapes: Sequence[FeatureShape]) -> None:
    """Raise ShapeError if there is nothing to fuse."""
    if len(shapes) < 2:
        raise ShapeError(
            f"a fusion combines two or more sources and got {len(shapes)}; name several layers in params.yaml (layer: "
            "all), or set ensemble.second, or fusion: none"
        )


def projected(channels: int, width: int) -> nn.Sequential:
    """1×1 convolution + BatchNorm + ReLU."""
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def resampled(x: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Tensor:
    """`x` on `grid` (height, width): bilinear, antialiased if an edge shrinks (bilinear alone would skip pixels)."""
    if x.shape[-2:] == grid:
        return x
    if any(own > new for own, new in zip(x.shape[-2:], grid, strict=True)):  # antialias does not support bfloat16
        return F.interpolate(x.float(), grid, mode="bilinear", antialias=True)
    return F.interpolate(x, grid, mode="bilinear")


FUSIONS: Registry[type[Fusion]] = Registry("fusion", "pipeline.models.fusion")


def build_fusion(name: str, options: Mapping[str, Any], shapes: Sequence[FeatureShape]) -> Fusion:
    """Build the fusion `name` from its plain section of params.yaml.

    Raises:
        ParamsError: unknown name, or wrong options.
        ShapeError: too few or too many sources for this fusion.
    """
    fusion = FUSIONS.get(name)
    return fusion(shapes, parse_section(fusion.Options, options, f"fusions.{name}"))

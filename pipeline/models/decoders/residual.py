"""A small residual network that works at (a multiple of) the feature grid, then a pixel shuffle."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.errors import ShapeError
from pipeline.core.section import Count, Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder
from pipeline.models.parts.vectors import Spread, laid_out

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class ResidualBlock(nn.Module):
    """act(x + conv(act(conv(x)))), 3×3 with BatchNorm (He et al. 2016), the first convolution dilated."""

    def __init__(self, width: int, dilation: int, norm: bool, activation: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(width, width, norm, dilation), ACTIVATIONS[activation](), *_conv(width, width, norm)
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.body(x))


@DECODERS.register("residual")
class Residual(Decoder):
    """Bilinear to `scale` times the feature grid, 3×3, residual blocks, 3×3, pixel shuffle to the image.

    At scale 1 all layers work on the coarse grid, where they are cheapest; 287,088 parameters on
    `resnet34.layer1`. A larger scale must divide the ratio of image to feature edge. The blocks use
    the `dilations` in turn. A vector is expanded to a grid first (`Spread`).
    """

    class Options(Section):
        width: Count
        blocks: Annotated[int, Field(ge=0)]
        scale: Count
        dilations: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
        norm: Literal["batch", "none"]
        activation: Literal["relu", "gelu", "silu"]

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        laid = laid_out(shape, image, options.width)
        super().__init__(laid, image, options)
        self.spread = Spread(shape, laid)
        ratio = self.whole_ratio()
        if ratio % options.scale:
            raise ShapeError(
                f"decoder residual: scale {options.scale} does not divide {ratio}, the ratio of the {image} image to "
                f"features {laid}; set decoders.residual.scale to a divisor of {ratio}"
            )
        self.scale = options.scale
        self.shuffle = ratio // options.scale
        norm, activation = options.norm == "batch", options.activation
        self.head = nn.Sequential(*_conv(laid.channels, options.width, norm), ACTIVATIONS[activation]())
        dilations = (options.dilations[i % len(options.dilations)] for i in range(options.blocks))
        self.blocks = nn.Sequential(*(ResidualBlock(options.width, d, norm, activation) for d in dilations))
        self.output = nn.Conv2d(options.width, 3 * self.shuffle**2, 3, padding=1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        features = self.spread(features)
        if self.scale > 1:
            features = F.interpolate(features, scale_factor=self.scale, mode="bilinear")
        return F.pixel_shuffle(self.output(self.blocks(self.head(features))), self.shuffle)


def _conv(inputs: int, outputs: int, norm: bool, dilation: int = 1) -> list[nn.Module]:
    """3×3 convolution and, unless switched off, BatchNorm."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
    return [convolution, nn.BatchNorm2d(outputs)] if norm else [convolution]

"""Transposed convolutions: the smallest decoder of the published comparisons."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.section import Count, Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder
from pipeline.models.parts.blocks import halved_widths, transposed_ladder


@DECODERS.register("transposed_conv")
class TransposedConv(Decoder):
    """(ConvTranspose 4×4/2 + BatchNorm + ReLU) until the image's grid, then 3×3 to RGB."""

    class Options(Section):
        min_channels: Count  # each doubling halves the channels down to this

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        super().__init__(shape, image, options)
        widths = halved_widths(shape.channels, self.doublings(), options.min_channels)
        self.ladder = transposed_ladder(widths)
        self.output = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        return self.output(self.ladder(features))

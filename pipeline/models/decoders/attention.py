"""Transformer blocks on the feature grid, then transposed convolutions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.section import Count
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder
from pipeline.models.parts.blocks import halved_widths, transposed_ladder
from pipeline.models.parts.tokens import TokenMixer, TokenOptions


@DECODERS.register("attention")
class Attention(Decoder):
    """`blocks` pre-norm transformer blocks on the H·W tokens, then the upsampling layers of `transposed_conv`.

    With `positions: none`, as published, tokens have no position code.
    """

    class Options(TokenOptions):
        min_channels: Count

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        super().__init__(shape, image, options)
        steps = self.doublings()
        self.mixer = TokenMixer(self.name, shape.channels, (shape.height, shape.width), options)
        widths = halved_widths(self.mixer.width, steps, options.min_channels)
        self.ladder = transposed_ladder(widths)
        self.output = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        return self.output(self.ladder(self.mixer(features)))

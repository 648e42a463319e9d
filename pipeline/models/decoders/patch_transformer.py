"""Transformer blocks on the feature grid, then each token becomes the pixels under it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.section import Count
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder
from pipeline.models.parts.tokens import TokenMixer, TokenOptions
from pipeline.models.parts.vectors import Spread, laid_out


@DECODERS.register("patch_transformer")
class PatchTransformer(Decoder):
    """Pre-norm transformer blocks on the H·W tokens, then 1×1 and a pixel shuffle.

    Similar to MAE's decoder (He et al. 2022), but small and without mask tokens: a transformer block inverts
    transformer blocks. A vector is expanded to a grid first (`Spread`). It has 2,070,144 parameters on `vit_small`.
    """

    class Options(TokenOptions):
        blocks: Count

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        laid = laid_out(shape, image, min(shape.channels, options.max_width))
        super().__init__(laid, image, options)
        self.spread = Spread(shape, laid)
        self.ratio = self.whole_ratio()
        self.mixer = TokenMixer(self.name, laid.channels, (laid.height, laid.width), options)
        self.output = nn.Conv2d(self.mixer.width, 3 * self.ratio**2, 1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        return F.pixel_shuffle(self.output(self.mixer(self.spread(features))), self.ratio)

"""Predicts the image's Haar sub-bands, from which an inverse Haar transform computes the image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ShapeError
from pipeline.core.section import Count, Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder
from pipeline.models.parts.blocks import conv_norm_relu, halved_widths, transposed_ladder
from pipeline.models.parts.wavelets import haar_idwt

BANDS = 4  # LL, LH, HL, HH


class BandFusion(nn.Module):
    """Weights the four bands at every position, mixes them, and adds the result to the bands.

    The weights are a softmax over the bands times 4, so that equal weights leave the bands unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(BANDS * channels, BANDS, 1)
        self.mix = conv_norm_relu(BANDS * channels, BANDS * channels, kernel=1)

    def forward(self, bands: Tensor) -> Tensor:  # (B, 4·C, H, W)
        weights = BANDS * torch.softmax(self.score(bands), dim=1)  # (B, 4, H, W)
        weighted = bands.unflatten(1, (BANDS, -1)) * weights.unsqueeze(2)  # (B, 4, C, H, W)
        return bands + self.mix(weighted.flatten(1, 2))


@DECODERS.register("wavelet")
class Wavelet(Decoder):
    """Four sub-band predictors, two attention-weighted fusions, refinement, upsampling, inverse Haar.

    The network ends at half the image's edge with LL, LH, HL and HH of each colour; they are the Haar
    coefficients of the image before its sigmoid. `haar_idwt` is exact and has no parameters.
    """

    class Options(Section):
        band_channels: Count
        fusions: Count
        min_channels: Count

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        super().__init__(shape, image, options)
        steps = self.doublings() - 1  # the inverse transform is the last doubling
        if steps < 0:
            raise ShapeError(
                f"decoder wavelet: features {shape} are as fine as the {image} image, and the inverse Haar transform "
                "doubles the grid; choose decoder residual or linear, or a deeper layer"
            )
        fused = BANDS * options.band_channels  # 256
        self.predictors = nn.ModuleList(conv_norm_relu(shape.channels, options.band_channels) for _ in range(BANDS))
        self.fusions = nn.Sequential(*(BandFusion(options.band_channels) for _ in range(options.fusions)))
        self.refine = conv_norm_relu(fused, fused // 2)
        widths = halved_widths(fused // 2, steps, options.min_channels)
        self.ladder = transposed_ladder(widths)
        self.output = nn.Conv2d(widths[-1], BANDS * 3, 3, padding=1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        bands = torch.cat([predict(features) for predict in self.predictors], dim=1)  # (B, 256, H, W)
        coefficients = self.output(self.ladder(self.refine(self.fusions(bands))))  # (B, 12, H'/2, W'/2)
        return haar_idwt(*coefficients.unflatten(1, (BANDS, 3)).unbind(1))

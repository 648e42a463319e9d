"""Separate pathways for low and high frequencies of the features, fused before the upsampling."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.section import Count, Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder
from pipeline.models.parts.blocks import conv_norm_relu, halved_widths, transposed_norm_relu


class ChannelAttention(nn.Module):
    """Channels times sigmoid(MLP(mean) + MLP(max)) (CBAM, Woo et al. 2018, eq. 2)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * torch.sigmoid(self.mlp(mean) + self.mlp(peak))


class SpatialAttention(nn.Module):
    """Positions times sigmoid(7×7 convolution of channel mean and maximum) (CBAM, eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.conv(summary))


def spatial_channel_attention(channels: int, reduction: int) -> nn.Sequential:
    """Channel attention, then spatial attention."""
    return nn.Sequential(ChannelAttention(channels, reduction), SpatialAttention())


class FrequencySplit(nn.Module):
    """x = low + high: low is x filtered by the binomial [1 2 1]ᵀ[1 2 1] / 16, high is the difference.

    The filter is two successive 2×2 means; its gain is 1 at frequency zero and 0 at the highest frequency.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        low = F.avg_pool2d(F.avg_pool2d(padded, 2, stride=1), 2, stride=1)
        return low, x - low


class ResidualUpsample(nn.Module):
    """Doubles the grid: transposed convolution, plus a bilinear skip through a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = transposed_norm_relu(inputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # the 1×1 convolution commutes with the interpolation and costs a quarter on the coarse grid
        return self.main(x) + F.interpolate(self.skip(x), scale_factor=2, mode="bilinear")


class MultiScale(nn.Module):
    """Refinement at three scales: x + 1×1 of the 3×3, 5×5 and 7×7 convolutions of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        branch = max(channels // 2, 1)
        self.branches = nn.ModuleList(conv_norm_relu(channels, branch, kernel) for kernel in (3, 5, 7))
        self.merge = nn.Conv2d(3 * branch, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.merge(torch.cat([branch(x) for branch in self.branches], dim=1))


class ColourEnhancement(nn.Module):
    """x + 3×3 of the instance-normalised x (Ulyanov et al. 2016); the skip keeps the brightness of each instance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


@DECODERS.register("frequency_aware")
class FrequencyAware(Decoder):
    """Attention ×2, low and high pathways of C/2 channels, fusion, upsampling, refinement, colour.

    C is the number of feature channels, or `max_width` (after a 1×1 convolution) if there are more, because
    the cost of the pathways' 3×3 convolutions grows with C².
    """

    class Options(Section):
        max_width: Count
        reduction: Count  # of the channel attention's hidden layer
        min_channels: Count

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        super().__init__(shape, image, options)
        width = min(shape.channels, options.max_width)
        self.stem = nn.Identity() if width == shape.channels else conv_norm_relu(shape.channels, width, kernel=1)
        self.attention = nn.Sequential(*(spatial_channel_attention(width, options.reduction) for _ in range(2)))
        self.split = FrequencySplit()
        self.low = conv_norm_relu(width, width // 2)
        self.high = conv_norm_relu(width, width - width // 2)
        self.fusion = spatial_channel_attention(width, options.reduction)
        widths = halved_widths(width, self.doublings(), options.min_channels)
        self.upsample = nn.Sequential(*(ResidualUpsample(a, b) for a, b in pairwise(widths)))
        self.refine = MultiScale(widths[-1])
        self.colour = ColourEnhancement(widths[-1])
        self.output = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        stem = self.stem(features)
        low, high = self.split(self.attention(stem))
        fused = stem + self.fusion(torch.cat((self.low(low), self.high(high)), dim=1))  # (B, C, H, W)
        return self.output(self.colour(self.refine(self.upsample(fused))))

"""What is specific to the frequency-aware decoder."""

import numpy as np
import torch
from scipy.ndimage import convolve
from shipped import build_decoder

from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.decoders.frequency_aware import FrequencySplit, ResidualUpsample


def test_the_pathways_add_up_to_the_features() -> None:
    x = torch.randn(2, 3, 6, 5)
    low, high = FrequencySplit()(x)
    torch.testing.assert_close(low + high, x)


def test_low_is_the_binomial_filter() -> None:
    x = torch.randn(1, 1, 7, 6)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = convolve(x[0, 0].numpy(), kernel, mode="nearest")
    np.testing.assert_allclose(FrequencySplit()(x)[0][0, 0].numpy(), expected, rtol=0, atol=1e-6)


def test_low_keeps_the_mean_and_high_takes_the_finest_pattern() -> None:
    constant = torch.full((1, 1, 6, 6), 0.7)
    checkerboard = (-1.0) ** (torch.arange(6)[:, None] + torch.arange(6)[None])[None, None]
    torch.testing.assert_close(FrequencySplit()(constant)[0], constant)
    torch.testing.assert_close(FrequencySplit()(checkerboard)[1][..., 1:-1, 1:-1], checkerboard[..., 1:-1, 1:-1])


def test_the_pathways_have_half_the_channels_each() -> None:
    decoder = build_decoder("frequency_aware", {}, FeatureShape(64, 4, 4), ImageSize(8, 8))
    assert decoder.low[0].weight.shape == decoder.high[0].weight.shape == (32, 64, 3, 3)


def test_wide_features_are_projected_first() -> None:
    decoder = build_decoder("frequency_aware", {}, FeatureShape(300, 4, 4), ImageSize(8, 8))
    assert decoder.stem[0].weight.shape == (256, 300, 1, 1)


def test_upsampling_keeps_a_bilinear_skip() -> None:
    block = ResidualUpsample(4, 4).eval()
    with torch.no_grad():
        block.main[1].weight.zero_()
        block.skip.weight.copy_(torch.eye(4)[..., None, None])
        block.skip.bias.zero_()
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"))

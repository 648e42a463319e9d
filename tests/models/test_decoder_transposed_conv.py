"""What is specific to the transposed-convolution decoder."""

from shipped import build_decoder
from torch import nn

from pipeline.core.sources import FeatureShape, ImageSize


def _ladder(options: dict[str, int]) -> list[tuple[int, int]]:
    decoder = build_decoder("transposed_conv", options, FeatureShape(320, 7, 7), ImageSize(224, 224))
    return [(m.in_channels, m.out_channels) for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]


def test_channels_halve_down_to_the_floor() -> None:
    assert _ladder({}) == [(320, 160), (160, 80), (80, 40), (40, 32), (32, 32)]
    assert _ladder({"min_channels": 64}) == [(320, 160), (160, 80), (80, 64), (64, 64), (64, 64)]

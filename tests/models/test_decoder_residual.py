"""What is specific to the residual decoder: its variants."""

import pytest
import torch
from messages import says
from shipped import build_decoder
from torch import nn

from pipeline.core.errors import ParamsError, ShapeError
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import Decoder


def _residual(options: dict[str, object]) -> Decoder:
    return build_decoder("residual", options, FeatureShape(16, 7, 7), ImageSize(84, 84))


def _parameters(shape: FeatureShape) -> int:
    decoder = build_decoder("residual", {"width": 64}, shape, ImageSize(224, 224))
    return sum(parameter.numel() for parameter in decoder.parameters())


def test_a_few_hundred_thousand_parameters_on_resnet50_layer1() -> None:
    assert _parameters(FeatureShape(256, 56, 56)) == 397_680


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 12])
def test_the_blocks_work_at_the_chosen_grid(scale: int) -> None:
    decoder = _residual({"scale": scale, "width": 8})
    sizes = []
    decoder.blocks.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    assert decoder(torch.randn(1, 16, 7, 7)).shape == (1, 3, 84, 84)
    assert sizes == [(1, 8, 7 * scale, 7 * scale)]


def test_a_scale_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        _residual({"scale": 5})
    says(caught.value, "scale 5 does not divide 12", "84×84", "16×7×7", "set decoders.residual.scale")


def test_the_blocks_take_the_dilations_in_turn() -> None:
    decoder = _residual({"blocks": 5, "dilations": [1, 2, 4]})
    assert [block.body[0].dilation[0] for block in decoder.blocks] == [1, 2, 4, 1, 2]


def test_dilation_widens_the_view_and_keeps_the_grid() -> None:
    reach = {}
    for dilation in (1, 2):
        block = _residual({"width": 64, "dilations": [dilation], "norm": "none", "activation": "silu"}).blocks[0]
        impulse = torch.zeros(1, 64, 11, 11)
        impulse[..., 5, 5] = 1
        touched = (block(impulse) - block(torch.zeros_like(impulse))).abs().sum((0, 1)) > 0
        assert touched.shape == (11, 11)
        reach[dilation] = int(touched.any(0).sum())
    assert reach == {1: 5, 2: 7}


def test_without_norm_there_is_none() -> None:
    decoder = _residual({"norm": "none"})
    assert not [module for module in decoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert decoder(torch.randn(1, 16, 7, 7)).shape == (1, 3, 84, 84)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dilations": []}, "params.yaml: decoders.residual.dilations = []: "),
        ({"activation": "tanh"}, "params.yaml: decoders.residual.activation = 'tanh' is unknown; choose one of: relu"),
        ({"width": 0}, "params.yaml: decoders.residual.width = 0: must be at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParamsError) as caught:
        _residual(options)
    assert str(caught.value).startswith(sentence)

"""The contract at every source's channels and ratio, also behind the stems that narrow wide features.

The grids are 3×2, not the sources' own: the modules are the same, and a forward pass takes milliseconds.
"""

import copy
from collections.abc import Iterator

import pytest
import torch
from decoder_shapes import FAST, SOURCE_SHAPES, shape_id
from safetensors.torch import load, save
from shipped import build_decoder, options
from torch import Tensor

from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder

pytestmark = pytest.mark.slow

NAMES = DECODERS.names()


def _build(name: str, shape: tuple[int, int, int]) -> Decoder:
    torch.manual_seed(0)
    channels, height, _ = shape
    ratio = 224 // height
    return build_decoder(name, FAST.get(name, {}), FeatureShape(channels, 3, 2), ImageSize(3 * ratio, 2 * ratio))


@pytest.fixture(scope="module", params=SOURCE_SHAPES, ids=shape_id)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return request.param


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, shape: tuple[int, int, int]) -> Decoder:
    """In evaluation mode; built once for all tests, because drawing 45 million weights takes longer than any test."""
    return _build(request.param, shape).eval()


@pytest.fixture
def decoder(whole: Decoder) -> Iterator[Decoder]:
    yield whole
    whole.zero_grad(set_to_none=True)


def _features(decoder: Decoder) -> Tensor:
    shape = decoder.shape
    return torch.randn(2, shape.channels, shape.height, shape.width, generator=torch.Generator().manual_seed(1))


def test_every_parameter_gets_a_gradient(decoder: Decoder) -> None:
    decoder.synthesize(_features(decoder)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_autocast_stays_close_to_float32_and_has_finite_gradients(decoder: Decoder) -> None:
    with torch.no_grad():
        exact = decoder(_features(decoder))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = decoder(_features(decoder))
    assert mixed.dtype == torch.float32
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert (mixed - exact).abs().mean() < 0.01
    mixed.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in decoder.parameters())


@torch.no_grad()
def test_channels_last_and_saved_weights_give_the_same_image(decoder: Decoder) -> None:
    features = _features(decoder)
    usual = decoder(features)
    other = copy.deepcopy(decoder)
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(load(save(decoder.state_dict())))
    assert torch.equal(other(features), usual)
    last = other.to(memory_format=torch.channels_last)(features.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, usual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "frequency_aware", "patch_transformer"])
def test_sources_lie_on_both_sides_of_each_stem(name: str) -> None:
    width = options(f"decoders.{name}")["max_width"]
    assert {shape[0] > width for shape in SOURCE_SHAPES} == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break_behind_a_stem(name: str) -> None:
    torch._dynamo.reset()
    decoder = _build(name, (1024, 56, 56)).eval()  # a ratio of 4: few layers, for compiling takes seconds
    compiled = torch.compile(copy.deepcopy(decoder), fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(_features(decoder)), decoder(_features(decoder)), rtol=1e-4, atol=1e-5)

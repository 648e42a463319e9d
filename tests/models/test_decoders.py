"""The contract every decoder keeps, held against every registered decoder."""

import copy
from pathlib import Path

import pytest
import torch
from decoder_shapes import FAST, SOURCE_SHAPES, shape_id
from devices import needs_gpu
from messages import says
from ruamel.yaml import YAML
from safetensors.torch import load, save
from shipped import build_decoder

from benchmarks.parameters import source_shapes, tables
from pipeline.core.errors import ParamsError, ShapeError
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder

PARAMS = Path(__file__).parents[2] / "params.yaml"
NAMES = DECODERS.names()
IMAGE = ImageSize(224, 224)
SMALL, SMALL_IMAGE = FeatureShape(40, 5, 3), ImageSize(40, 24)  # not square, no power of two, ratio 8

COUNTS = {
    ("transposed_conv", (64, 112, 112)): 33_731,
    ("transposed_conv", (64, 56, 56)): 50_211,
    ("transposed_conv", (384, 14, 14)): 1_574_835,
    ("attention", (64, 112, 112)): 233_667,
    ("attention", (64, 56, 56)): 250_147,
    ("attention", (512, 7, 7)): 15_413_603,
    ("attention", (768, 14, 14)): 34_621_827,
    ("residual", (64, 56, 56)): 88_272,
    ("linear", (64, 112, 112)): 6_924,
    ("patch_transformer", (384, 14, 14)): 12 * 384**2 + 13 * 384 + 768 * 385,  # a block (ViT) and the read-out
    ("linear", (64, 56, 56)): 27_696,
}


def _small(name: str, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return build_decoder(name, {}, SMALL, SMALL_IMAGE)


def _features(shape: FeatureShape = SMALL, batch: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, shape.channels, shape.height, shape.width, generator=generator)


@pytest.fixture(params=NAMES)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return _small(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SOURCE_SHAPES, ids=shape_id)
@pytest.mark.parametrize("name", NAMES)
def test_every_source_becomes_a_whole_image_in_range(name: str, shape: tuple[int, int, int]) -> None:
    features = FeatureShape(*shape)
    with torch.inference_mode():
        image = build_decoder(name, FAST.get(name, {}), features, IMAGE).eval()(_features(features, batch=1))
    assert image.shape == (1, 3, 224, 224)
    assert image.dtype == torch.float32
    assert torch.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0


@pytest.mark.parametrize(("name", "shape"), COUNTS, ids=str)
def test_parameter_counts_are_the_documented_ones(name: str, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        decoder = build_decoder(name, {}, FeatureShape(*shape), IMAGE)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == COUNTS[name, shape]


@pytest.mark.parametrize("name", NAMES)
def test_the_widest_source_stays_below_50_million_parameters(name: str) -> None:
    with torch.device("meta"):
        decoder = build_decoder(name, {}, FeatureShape(2048, 7, 7), IMAGE)
    assert sum(parameter.numel() for parameter in decoder.parameters()) < 50_000_000


def test_a_grid_that_is_neither_square_nor_a_power_of_two(decoder: Decoder) -> None:
    assert decoder(_features()).shape == (2, 3, 40, 24)


def test_the_image_is_the_squashed_or_clamped_synthesis(decoder: Decoder) -> None:
    decoder.eval()
    raw, image = decoder.synthesize(_features()), decoder(_features())
    expected = raw.clamp(0, 1) if decoder.name == "linear" else torch.sigmoid(raw)
    torch.testing.assert_close(image, expected)


def test_every_parameter_gets_a_gradient(decoder: Decoder) -> None:
    decoder.eval()  # behind a BatchNorm in training a convolution's bias has no effect
    decoder.synthesize(_features()).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_training_steps_lower_the_error(decoder: Decoder) -> None:
    target = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    errors = []
    for _ in range(25):
        loss = (decoder.synthesize(_features()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.5 * errors[0]


def test_zero_output_is_exactly_zero_and_can_still_learn(decoder: Decoder) -> None:
    decoder.zero_output()
    assert torch.equal(decoder.synthesize(_features()), torch.zeros(2, 3, 40, 24))
    (decoder.synthesize(_features()) - 1).square().sum().backward()
    for parameter in decoder.output.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_autocast_stays_close_to_float32(decoder: Decoder) -> None:
    decoder.eval()
    exact = decoder(_features())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = decoder(_features())
    assert mixed.dtype == torch.float32
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert (mixed - exact).abs().mean() < 0.01


def test_autocast_gradients_are_finite(decoder: Decoder) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = decoder(_features()).square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in decoder.parameters())


def test_channels_last_gives_the_same_image(decoder: Decoder) -> None:
    decoder.eval()
    usual = decoder(_features())
    other = decoder.to(memory_format=torch.channels_last)(_features().to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, usual, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiles_without_a_graph_break(decoder: Decoder) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(decoder), fullgraph=True, backend="aot_eager", dynamic=False)
    expected, actual = decoder(_features()), compiled(_features())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual.mean().backward()


def test_saved_weights_give_the_same_image(decoder: Decoder) -> None:
    decoder.train()(_features())  # moves the BatchNorm statistics, which must be saved too
    other = _small(decoder.name, seed=7)
    other.load_state_dict(load(save(decoder.state_dict())))
    assert torch.equal(other.eval()(_features()), decoder.eval()(_features()))


def test_the_seed_fixes_the_weights(decoder: Decoder) -> None:
    again = _small(decoder.name)
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), again.parameters(), strict=True))


def test_images_of_a_batch_do_not_mix_in_evaluation(decoder: Decoder) -> None:
    decoder.eval()
    pair = decoder(_features())
    torch.testing.assert_close(decoder(_features()[1:]), pair[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "ratios"),
    [((8, 100, 112), ("2.24", "2")), ((8, 56, 112), ("4", "2")), ((8, 448, 448), ("0.5", "0.5"))],
    ids=str,
)
def test_a_ratio_that_is_not_one_whole_number_is_refused(
    name: str, shape: tuple[int, int, int], ratios: tuple[str, str]
) -> None:
    with pytest.raises(ShapeError) as caught:
        build_decoder(name, {}, FeatureShape(*shape), IMAGE)
    says(
        caught.value,
        f"decoder {name}",
        shape_id(shape),
        "224×224 image",
        f"{ratios[0]} (height)",
        f"{ratios[1]} (width)",
        "one whole number",
        "another prepare.crop",
    )


@pytest.mark.parametrize("name", ["attention", "frequency_aware", "transposed_conv", "wavelet"])
def test_a_ratio_that_no_doubling_reaches_is_refused(name: str) -> None:
    with pytest.raises(ShapeError) as caught:
        build_decoder(name, {}, FeatureShape(384, 16, 16), IMAGE)
    says(
        caught.value,
        f"decoder {name}",
        "384×16×16",
        "224×224 image",
        "ratio 14",
        "not a power of two",
        "choose decoder linear, patch_transformer or residual",
    )


@pytest.mark.parametrize("name", ["linear", "patch_transformer", "residual"])
def test_pixel_shuffling_decoders_take_any_whole_ratio(name: str) -> None:
    decoder = build_decoder(name, {}, FeatureShape(384, 16, 16), IMAGE)
    assert decoder(_features(FeatureShape(384, 16, 16), batch=1)).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"wavelet"}))
def test_features_as_fine_as_the_image_are_decoded_without_upsampling(name: str) -> None:
    decoder = build_decoder(name, {}, FeatureShape(16, 8, 8), ImageSize(8, 8))
    assert decoder(_features(FeatureShape(16, 8, 8))).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_params_yaml_shows_every_option(name: str) -> None:
    section = YAML(typ="safe", pure=True).load(PARAMS)["decoders"][name]
    assert set(section) == set(DECODERS.get(name).Options.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match=rf"params.yaml: unknown key 'decoders.{name}.colour'"):
        build_decoder(name, {"colour": 1}, SMALL, SMALL_IMAGE)


def test_an_unknown_decoder_is_refused_with_the_list() -> None:
    with pytest.raises(ParamsError, match="unknown decoder 'unet'; choose one of: attention, frequency_aware, linear"):
        build_decoder("unet", {}, SMALL, SMALL_IMAGE)


@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_cuda_agrees_with_the_cpu(name: str) -> None:
    decoder = _small(name).eval()
    expected = decoder(_features())
    actual = decoder.cuda()(_features().cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=5e-3)  # cuDNN convolves in TF32


def test_the_shapes_tested_are_those_of_the_backbones() -> None:
    assert {FeatureShape(*shape) for shape in SOURCE_SHAPES} == set(source_shapes().values())


def test_the_documented_parameter_tables_are_current() -> None:
    page = (PARAMS.parent / "docs" / "decoders.md").read_text()
    for table in tables().split("\n\n"):
        assert table in page, "put the output of `python -m benchmarks.parameters` into docs/decoders.md"

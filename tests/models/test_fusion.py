"""The contract of every fusion, and what each one computes."""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from messages import says
from ruamel.yaml import YAML
from safetensors.torch import load, save
from shipped import build_fusion
from torch import Tensor, nn

from pipeline.core.errors import ParamsError, ShapeError
from pipeline.core.sources import FeatureShape
from pipeline.models.common.fusion import FUSIONS, AlignedFusion, Fusion, resampled

PARAMS = Path(__file__).parents[2] / "params.yaml"
NAMES = tuple(name for name in FUSIONS.names() if name != "none")
ALIGNED = tuple(name for name in NAMES if issubclass(FUSIONS.get(name), AlignedFusion))
SHAPES = (FeatureShape(6, 5, 7), FeatureShape(4, 10, 14), FeatureShape(9, 2, 3), FeatureShape(5, 10, 14))
OPTIONS = {"channels": 16}


def _fusion(name: str, shapes: Sequence[FeatureShape] = SHAPES, seed: int = 0, **options: object) -> Fusion:
    torch.manual_seed(seed)
    return build_fusion(name, OPTIONS | options, shapes)


def _many(count: int) -> tuple[FeatureShape, ...]:
    """`count` sources: those of SHAPES again and again."""
    return tuple(islice(cycle(SHAPES), count))


def _features(shapes: Sequence[FeatureShape] = SHAPES, batch: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(batch, s.channels, s.height, s.width, generator=generator) for s in shapes)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("count", [2, 3, 4, 5, 12])
def test_any_number_of_sources_comes_to_the_largest_grid(name: str, count: int) -> None:
    fusion = _fusion(name, _many(count))
    channels = 16 if name in ALIGNED else 4  # those of the shallowest source
    assert fusion.shape == FeatureShape(channels, 10, 14)
    fused = fusion(_features(_many(count)))
    assert fused.shape == (3, channels, 10, 14)
    assert fused.isfinite().all()


@pytest.mark.parametrize("name", ALIGNED)
def test_the_smallest_grid_can_be_chosen(name: str) -> None:
    fusion = _fusion(name, grid="smallest")
    assert fusion.shape == FeatureShape(16, 2, 3)
    assert fusion(_features()).shape == (3, 16, 2, 3)


@pytest.mark.parametrize("name", ALIGNED)
def test_the_default_is_256_channels(name: str) -> None:
    assert build_fusion(name, {}, SHAPES[:2]).shape == FeatureShape(256, 10, 14)


def test_every_parameter_gets_a_gradient(name: str) -> None:
    fusion = _fusion(name).eval()
    _scramble(fusion)
    (fusion(_features()) - 1).square().sum().backward()
    for parameter_name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), *((name, {"grid": "smallest"}) for name in ALIGNED)]
)
def test_autocast_stays_close_to_float32(name: str, options: dict[str, str]) -> None:
    fusion = _fusion(name, **options).eval()
    exact = fusion(_features())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = fusion(_features())
    assert (mixed.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_compiles_without_a_graph_break(name: str) -> None:
    torch._dynamo.reset()
    fusion = _fusion(name).eval()
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(_features()), fusion(_features()), rtol=1e-4, atol=1e-5)


def test_saved_weights_give_the_same_result(name: str) -> None:
    fusion = _fusion(name)
    fusion.train()(_features())
    other = _fusion(name, seed=5)
    other.load_state_dict(load(save(fusion.state_dict())))
    assert torch.equal(other.eval()(_features()), fusion.eval()(_features()))


def test_the_order_of_sources_only_permutes_the_parameters(name: str) -> None:
    order = (2, 0, 3, 1) if name in ALIGNED else (2, 0, 1, 3)  # of equal grids, the first one leads `residual`
    fusion, other = _fusion(name).eval(), _fusion(name, [SHAPES[i] for i in order], seed=9).eval()
    _scramble(fusion)
    other.load_state_dict(_permuted(fusion, order))
    features = _features()
    permuted = [features[i] for i in order]
    torch.testing.assert_close(other(permuted), fusion(features), rtol=1e-4, atol=1e-5)
    weights = fusion.source_weights(features)
    if weights is not None:
        torch.testing.assert_close(other.source_weights(permuted), weights[list(order)], rtol=1e-4, atol=1e-6)


def _scramble(fusion: Fusion) -> None:
    """No parameter or statistic keeps a neutral value."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*fusion.parameters(), *fusion.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))


def _permuted(fusion: Fusion, order: Sequence[int]) -> dict[str, Tensor]:
    """The state dict of `fusion` with source `order[i]` in place i."""
    state = {}
    for key, value in fusion.state_dict().items():
        part, _, rest = key.partition(".")
        if part in ("project", "correct"):
            place, _, rest = rest.partition(".")
            state[f"{part}.{order.index(int(place))}.{rest}"] = value
        elif part == "scores":
            state[key] = value[list(order)]
        elif key == "mix.0.weight":  # concat: input channels come in blocks, one for each source
            state[key] = value.unflatten(1, (len(order), -1))[:, list(order)].flatten(1, 2)
        else:
            state[key] = value
    return state


def _by_hand(project: nn.Sequential, x: Tensor) -> Tensor:
    """1×1 convolution as a matrix, BatchNorm in evaluation, ReLU, bilinear."""
    convolution, norm, _ = project
    mixed = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], x)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    rectified = torch.relu((mixed - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None])
    return F.interpolate(rectified, (10, 14), mode="bilinear")


def test_weighted_is_the_softmax_weighted_sum() -> None:
    fusion = _fusion("weighted").eval()
    _scramble(fusion)
    with torch.no_grad():
        fusion.scores.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
    shares = torch.exp(fusion.scores) / torch.exp(fusion.scores).sum()
    aligned = [_by_hand(project, x) for project, x in zip(fusion.project, _features(), strict=True)]
    expected = sum(share * x for share, x in zip(shares, aligned, strict=True))
    torch.testing.assert_close(fusion(_features()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fusion.source_weights(_features()), shares.detach())


def test_weighted_starts_equal() -> None:
    assert _fusion("weighted").source_weights(_features()).tolist() == [0.25] * 4


def test_attention_weighs_each_image_by_its_global_means() -> None:
    fusion = _fusion("attention").eval()
    _scramble(fusion)
    aligned = [_by_hand(project, x) for project, x in zip(fusion.project, _features(), strict=True)]
    first, _, last = fusion.score
    scores = [torch.relu(x.mean((2, 3)) @ first.weight.T + first.bias) @ last.weight.T for x in aligned]
    shares = torch.softmax(torch.cat(scores, 1), dim=1)  # (B, sources)
    expected = torch.einsum("bs,sbchw->bchw", shares, torch.stack(aligned))
    torch.testing.assert_close(fusion(_features()), expected, rtol=1e-4, atol=1e-5)
    assert shares.std(0).max() > 1e-4  # images differ
    torch.testing.assert_close(fusion.source_weights(_features()), shares.mean(0).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["concat", "residual", "sum"])
def test_some_have_no_source_weights(name: str) -> None:
    assert _fusion(name).source_weights(_features()) is None
    assert _fusion(name).weight_maps(_features()) is None


def test_sum_is_one_convolution_of_all_channels() -> None:
    fusion, features = _fusion("sum"), _features()
    assert isinstance(fusion, AlignedFusion)
    assert {name.split(".")[-1] for name, _ in fusion.named_parameters()} == {"weight"}
    grown = [F.interpolate(x, (10, 14), mode="bilinear") for x in features]
    weight = torch.cat([project.weight for project in fusion.project], dim=1)
    torch.testing.assert_close(fusion(features), F.conv2d(torch.cat(grown, dim=1), weight), rtol=1e-4, atol=1e-5)


def test_routed_weighs_each_position_by_the_features_there() -> None:
    fusion = _fusion("routed").eval()
    assert torch.equal(fusion.weight_maps(_features()), torch.full((3, 4, 10, 14), 0.25))  # equal at the start
    _scramble(fusion)
    aligned = [_by_hand(project, x) for project, x in zip(fusion.project, _features(), strict=True)]
    first, _, last = fusion.score
    hidden = [torch.einsum("hc,bcyx->bhyx", first.weight[:, :, 0, 0], x) + first.bias[:, None, None] for x in aligned]
    scores = [torch.einsum("h,bhyx->byx", last.weight[0, :, 0, 0], torch.relu(each)) for each in hidden]
    shares = torch.softmax(torch.stack(scores, 1), dim=1)  # (B, sources, H, W)
    expected = torch.einsum("bsyx,sbcyx->bcyx", shares, torch.stack(aligned))
    torch.testing.assert_close(fusion(_features()), expected, rtol=1e-4, atol=1e-5)
    maps = fusion.weight_maps(_features())
    torch.testing.assert_close(maps, shares.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fusion.source_weights(_features()), maps.mean((0, 2, 3)))
    assert maps.std((2, 3)).min() > 1e-4  # positions differ


@pytest.mark.parametrize("count", [2, 5, 12])
def test_residual_starts_as_the_shallowest_source_and_then_hears_all(count: int) -> None:
    fusion, features = _fusion("residual", _many(count)), _features(_many(count))
    assert torch.equal(fusion(features), features[1])  # 4×10×14: the first with the largest grid
    _scramble(fusion)
    fusion.eval()
    for place in range(count):
        changed = [x + (place == number) for number, x in enumerate(features)]
        assert (fusion(changed) - fusion(features)).abs().max() > 1e-4


def test_asking_for_weights_changes_nothing(name: str) -> None:
    fusion = _fusion(name).eval()
    before = {key: value.clone() for key, value in fusion.state_dict().items()}
    fusion.source_weights(_features())
    assert all(torch.equal(value, before[key]) for key, value in fusion.state_dict().items())


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = torch.zeros(1, 16, 2, 300)
    stripes[..., ::2] = 1
    torch.testing.assert_close(resampled(stripes, (2, 3)), torch.full((1, 16, 2, 3), 0.5), rtol=0, atol=0.02)
    torch.testing.assert_close(resampled(stripes, (9, 3)), torch.full((1, 16, 9, 3), 0.5), rtol=0, atol=0.02)


def test_one_source_is_refused(name: str) -> None:
    with pytest.raises(ShapeError) as caught:
        _fusion(name, [SHAPES[0]])
    says(caught.value, "two or more sources", "got 1", "ensemble.second", "fusion: none")


def test_none_is_the_identity_of_one_source() -> None:
    fusion = build_fusion("none", {}, SHAPES[:1])
    (features,) = _features(SHAPES[:1])
    assert fusion.shape == SHAPES[0]
    assert fusion((features,)) is features
    assert fusion.source_weights((features,)) is None
    with pytest.raises(ShapeError, match="fusion none takes one source and got 2; choose a fusion in params"):
        build_fusion("none", {}, SHAPES[:2])


@pytest.mark.parametrize("each", FUSIONS.names())
def test_params_yaml_shows_every_option(each: str) -> None:
    section = YAML(typ="safe", pure=True).load(PARAMS)["fusions"][each]
    assert set(section) == set(FUSIONS.get(each).Options.model_fields)


@pytest.mark.parametrize("name", ALIGNED)
def test_wrong_options_are_refused(name: str) -> None:
    with pytest.raises(ParamsError, match=rf"fusions.{name}.grid = 'middle' is unknown; choose one of: largest"):
        _fusion(name, grid="middle")

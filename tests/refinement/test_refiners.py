"""The contract of every refiner on a real network; each method against what it must reach in closed form."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from shipped import backbone_params, build_refiner
from skimage import data as pictures
from torch import nn

from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.backbones.base import FrozenNetwork
from pipeline.core.errors import ParamsError
from pipeline.core.sources import FeatureShape, ImageSize, Inputs, Source
from pipeline.models.common.prior import ImagePrior, moments
from pipeline.refinement.base import REFINERS, KnownLayer, Refiner, Step
from pipeline.refinement.refiners.block_inverse import BlockInverse, invert
from pipeline.refinement.refiners.map import expansion, network_gain, shares, shrinkage
from pipeline.refinement.token_blocks import TokenBlocks

CPU = torch.device("cpu")
EDGE = 32


def _photographs(count: int, first: int = 0) -> torch.Tensor:
    """Pieces of real photographs, (count, 3, EDGE, EDGE)."""
    sources = (pictures.astronaut(), pictures.coffee(), pictures.chelsea())
    pieces = []
    for number in range(first, first + count):
        top, left = 7 * number % 200, 11 * number % 200
        pieces.append(sources[number % 3][top : top + 2 * EDGE : 2, left : left + 2 * EDGE : 2])
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).float() / 255


@dataclass
class Pair:
    inputs: Inputs[torch.Tensor]
    targets: torch.Tensor


class Examples:
    """Training and validation pairs of a layer, made on the spot."""

    def __init__(self, layer: KnownLayer) -> None:
        self._layer = layer

    def training(self, images: int) -> Iterator[Pair]:
        yield self._pair(_photographs(min(images, 60), first=10))

    def validation(self) -> Iterator[Pair]:
        yield self._pair(_photographs(8, first=80))

    def prior(self) -> ImagePrior:
        crops = (_photographs(60, first=10) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return ImagePrior.of(*moments([crops]))

    def _pair(self, images: torch.Tensor) -> Pair:
        with torch.no_grad():
            return Pair(Inputs((self._layer(images),)), images)


@pytest.fixture(scope="module")
def transformer() -> Backbone:
    return load_backbone("vit_small", backbone_params(layers=("block1",)), CPU)


@pytest.fixture(scope="module")
def layer(transformer: Backbone) -> KnownLayer:
    return KnownLayer(Source("vit_small", "block1"), transformer, ImageSize(EDGE, EDGE), "fp32")


def _steps(name: str, layer: KnownLayer, images: torch.Tensor, budget: int = 8) -> list[Step]:
    refiner = build_refiner(name, {}, layer, budget)
    refiner.learn(Examples(layer))
    with torch.no_grad():
        features = layer(images)
    return list(refiner.refine(features, torch.full_like(images, 0.5)))


@pytest.mark.parametrize("name", REFINERS.names())
def test_what_was_learned_can_be_handed_over(name: str, layer: KnownLayer) -> None:
    images = _photographs(2)
    learned = build_refiner(name, {}, layer, 3)
    learned.learn(Examples(layer))
    other = build_refiner(name, {}, layer, 3)
    other.load_state({key: tensor.clone() for key, tensor in learned.state().items()})
    with torch.no_grad():
        features = layer(images)
    paths = [list(each.refine(features, torch.full_like(images, 0.5))) for each in (learned, other)]
    torch.testing.assert_close(paths[0][-1].images, paths[1][-1].images, rtol=0, atol=0)
    with pytest.raises((KeyError, RuntimeError)):
        other.load_state({"of another refiner": torch.zeros(1)})


@pytest.mark.parametrize("name", REFINERS.names())
def test_every_evaluation_is_an_image_in_range_and_nearer(name: str, layer: KnownLayer) -> None:
    images = _photographs(3)
    steps = _steps(name, layer, images)
    assert len(steps) == 8
    for step in steps:
        assert step.images.shape == images.shape
        assert step.images.dtype == torch.float32
        assert not step.images.requires_grad
        assert 0 <= step.images.min() <= step.images.max() <= 1
        assert step.feature_error.shape == (3,)
    assert (steps[-1].feature_error < steps[0].feature_error).all()
    first, last = (_psnr(step.images, images) for step in (steps[0], steps[-1]))
    assert (last > first).all()


@pytest.mark.parametrize("name", REFINERS.names())
def test_an_image_does_not_depend_on_its_neighbours(name: str, layer: KnownLayer) -> None:
    images = _photographs(3)
    together, alone = _steps(name, layer, images)[-1], _steps(name, layer, images[1:2])[-1]
    torch.testing.assert_close(together.images[1], alone.images[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", REFINERS.names())
def test_the_network_stays_as_it_was(name: str, layer: KnownLayer) -> None:
    before = {key: value.clone() for key, value in layer.backbone.state_dict().items()}
    _steps(name, layer, _photographs(1), budget=2)
    assert all(parameter.grad is None for parameter in layer.backbone.parameters())
    for key, value in layer.backbone.state_dict().items():
        assert torch.equal(before[key], value), key


@pytest.mark.parametrize("name", REFINERS.names())
def test_an_unknown_option_is_refused(name: str, layer: KnownLayer) -> None:
    with pytest.raises(ParamsError, match=f"unknown key 'refiners.{name}.nosuch'"):
        build_refiner(name, {"nosuch": 1}, layer, 4)


def _psnr(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -10 * (images - targets).square().mean(dim=(1, 2, 3)).log10()


class Toy(FrozenNetwork):
    """A network of one layer, standing in for a backbone."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"layer": self.function(images)}

    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        raise NotImplementedError

    def describe(self) -> dict[str, object]:
        raise NotImplementedError


def _toy(function: nn.Module) -> KnownLayer:
    return KnownLayer(Source("toy", "layer"), Toy(function), ImageSize(EDGE, EDGE), "fp32")  # type: ignore[arg-type]


def test_lbfgs_finds_the_image_behind_an_invertible_network() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 12, 3, padding=1)
    nn.init.orthogonal_(convolution.weight)
    layer = _toy(nn.Sequential(convolution, nn.LeakyReLU(0.3)))
    images = _photographs(2)
    steps = _steps("lbfgs", layer, images, budget=60)
    assert _psnr(steps[-1].images, images).min() > 60


def _lossy() -> nn.Conv2d:
    """Fewer numbers out than in: without a prior there is no one answer."""
    torch.manual_seed(1)
    return nn.Conv2d(3, 4, 2, stride=2, bias=True)


@pytest.mark.parametrize("descent", ["accelerated", "lbfgs"])
def test_map_of_a_linear_network_is_the_closed_form(descent: str) -> None:
    """The minimum of ‖A x + b − f‖² / α + λ (x − m)ᵀ C⁻¹ (x − m), solved densely in float64."""
    strength, network = 1e-2, _lossy()
    layer, images = _toy(network), _photographs(1)[..., :12, :12]
    prior = ImagePrior.of(*moments([(_photographs(40, 10)[..., :12, :12] * 255).byte().permute(0, 2, 3, 1).numpy()]))
    refiner = build_refiner("map", {"strengths": [strength], "descent": descent}, layer, 150)

    class Known(Examples):
        def training(self, images: int) -> Iterator[Pair]:
            yield self._pair(_photographs(4)[..., :12, :12])

        def prior(self) -> ImagePrior:
            return prior

    refiner.learn(Known(layer))
    features = network(images)
    *_, last = refiner.refine(features, torch.full_like(images, 0.5))

    size = images.numel()
    basis = torch.eye(size).view(size, 3, 12, 12)
    matrix = (network(basis) - network(torch.zeros_like(basis))).flatten(1).T.double()
    alpha = float(network_gain(layer, _photographs(4)[..., :12, :12]).mean())
    precision = prior.filter(torch.reciprocal)(basis).flatten(1).T.double()
    mean = prior.mean.expand(3, 12, 12).flatten().double()
    offset = (features - network(prior.mean.expand(1, 3, 12, 12))).flatten().double()
    solution = mean + torch.linalg.solve(matrix.T @ matrix / alpha + strength * precision, matrix.T @ offset / alpha)
    torch.testing.assert_close(last.images.flatten().double(), solution.clamp(0, 1), atol=2e-3, rtol=0)


def test_the_gain_of_a_linear_network_is_its_mean_square_gain() -> None:
    network = _lossy()
    basis = torch.eye(3 * 16 * 16).view(-1, 3, 16, 16)
    matrix = (network(basis) - network(torch.zeros_like(basis))).flatten(1)
    expected = matrix.detach().square().sum() / len(basis)  # E‖A v‖² / ‖v‖² = ‖A‖² / n for white v
    measured = network_gain(_toy(network), _photographs(16)[..., :16, :16])
    assert measured.mean() == pytest.approx(float(expected), rel=0.05)


def test_the_gain_is_the_same_whatever_the_features_were_extracted_in() -> None:
    network = load_backbone("resnet34", backbone_params(layers=("layer1",)), CPU)

    def gain(precision: str) -> float:
        known = KnownLayer(Source("resnet34", "layer1"), network, ImageSize(EDGE, EDGE), precision)
        return float(network_gain(known, _photographs(2)).mean())

    assert gain("bf16") == gain("fp32")


def test_shrinkage_and_expansion_undo_each_other() -> None:
    variances = torch.logspace(-8, 2, 50)
    torch.testing.assert_close(shrinkage(1e-2)(variances) * expansion(1e-2)(variances), torch.ones(50))
    torch.testing.assert_close(shrinkage(1e-2)(variances) ** 2, 1 / (1 + 1e-2 / variances))


@pytest.mark.parametrize(("total", "parts", "expected"), [(26, 2, [13, 13]), (7, 3, [3, 2, 2]), (1, 2, [1, 0])])
def test_the_budget_is_divided_without_rest(total: int, parts: int, expected: list[int]) -> None:
    assert shares(total, parts) == expected


def _tokens(images: torch.Tensor) -> torch.Tensor:
    """What enters the first block beside the class token, from a model of timm's own: (B, 384, 2, 2)."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", dynamic_img_size=True).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        patches = model.patch_embed((images - mean[:, None, None]) / std[:, None, None])
        embedded = model._pos_embed(patches)
    return embedded[:, 1:].mT.unflatten(2, patches.shape[1:3])


def test_token_blocks_equal_the_networks_own_features(layer: KnownLayer, transformer: Backbone) -> None:
    images = _photographs(2)
    tokens = _tokens(images)
    blocks = TokenBlocks(transformer, "block1", (2, 2))
    with torch.no_grad():
        sequence = torch.cat([blocks.prefix.expand(len(tokens), -1, -1), tokens.flatten(2).mT], dim=1)
        leaving = blocks.blocks(sequence)[:, blocks.prefix.shape[1] :].mT.unflatten(2, tokens.shape[-2:])
        torch.testing.assert_close(leaving, layer(images), atol=1e-5, rtol=1e-4)


def test_inverted_blocks_give_the_true_tokens(layer: KnownLayer, transformer: Backbone) -> None:
    """From the stored patch features alone: neither the class token of the layer nor the image is used."""
    images = _photographs(2)
    tokens = _tokens(images)
    blocks = TokenBlocks(transformer, "block1", (2, 2))
    with torch.no_grad():
        features = layer(images)
    *_, (found, error) = invert(blocks, features, 0.6, 40)
    assert error.max() < 1e-4
    torch.testing.assert_close(found, tokens, atol=2e-3, rtol=0)


def test_an_iteration_that_diverges_keeps_its_best(transformer: Backbone) -> None:
    blocks = TokenBlocks(transformer, "block1", (2, 2))
    blocks.blocks = nn.Sequential(nn.Linear(384, 384, bias=False))
    with torch.no_grad():
        nn.init.eye_(blocks.blocks[0].weight).mul_(20)
    path = list(invert(blocks, torch.ones(1, 384, 2, 2), 0.6, 60))
    assert torch.isfinite(path[-1][0]).all()
    assert path[-1][1] == path[0][1]


@pytest.mark.parametrize("name", ["vgg16", "resnet34", "pvt_v2_b2"])
def test_blocks_of_other_networks_are_not_inverted(name: str) -> None:
    refiner: type[Refiner] = REFINERS.get("block_inverse")
    with pytest.raises(ParamsError, match=rf"^params.yaml: the refiner block_inverse .* {name} is a \w+; choose"):
        refiner.check(Source(name, "block1"), backbone_params(layers=("block1",)))


def test_the_tokens_that_entered_a_vit_base_are_found() -> None:
    entry, images = backbone_params(layers=("block1",)), _photographs(1)
    BlockInverse.check(Source("vit_base", "block1"), entry)
    backbone = load_backbone("vit_base", entry, CPU)
    blocks = TokenBlocks(backbone, "block1", (EDGE // 16, EDGE // 16))
    entered: list[torch.Tensor] = []
    handle = blocks.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        features = backbone(images)["block1"]
        handle.remove()
        *_, (tokens, _) = invert(blocks, features, 0.6, 24)
    expected = entered[0][:, blocks.prefix.shape[1] :].mT.unflatten(2, features.shape[-2:])
    assert (tokens - expected).norm() < 0.02 * expected.norm()

"""The unit of the features changes no result, and channels that never vary become zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from shipped import backbone_params, build_refiner, options
from small_stores import CPU, SmallBackbone, SmallData, apart, small_extraction, small_params
from small_training import Trained, trained

from pipeline.backbones.backbone import load_backbone
from pipeline.backbones.base import FrozenNetwork
from pipeline.core.params import ProtocolParams
from pipeline.core.sources import ImageSize, Inputs, Source
from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.fusion import FUSIONS
from pipeline.models.common.inverter import Blueprint, Inverter, Standardise
from pipeline.models.common.prior import ImagePrior, moments
from pipeline.models.common.ridge import NormalEquations, solve
from pipeline.refinement.base import REFINERS, KnownLayer, Step
from pipeline.refinement.consistency import agreement
from pipeline.stores.base import FeatureStore
from pipeline.stores.manifest import DEAD
from pipeline.stores.opening import open_store
from pipeline.training.optimizers import orthogonalise

EXPONENTS = (-40, -13, 12)
ROWS = np.arange(40)
START = 0.4  # of every pixel, before it is refined
SHAPES = {"deep": (16, 4, 4), "shallow": (8, 8, 8)}
FUSION_NAMES = [name for name in FUSIONS.names() if name != "none"]
OPTIMIZERS, SCHEDULES = (get_args(ProtocolParams.model_fields[each].annotation) for each in ("optimizer", "schedule"))
RECIPES = [
    *(f"optimizer={name}" for name in OPTIMIZERS),
    *(f"schedule={name}" for name in SCHEDULES),
    *("gradient_clip=0.0", "ema=0.5"),
]


class Scaled(SmallBackbone):
    """The same network in another unit; `shallow` has a channel that never varies, one that is zero, one twice."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = super().forward(images)
        features["shallow"] = features["shallow"].clone()
        features["shallow"][:, 3], features["shallow"][:, 5] = 0.7, 0
        features["shallow"][:, 6] = features["shallow"][:, 7]
        return {layer: values * self.unit for layer, values in features.items()}


def stores(root: Path, unit: float, dtype: str = "float32") -> list[FeatureStore]:
    small_extraction(root, small_params(dtype=dtype), backbone=Scaled(unit))
    return [open_store(root / "features/small" / layer) for layer in SHAPES]


@cache
def images() -> torch.Tensor:
    return torch.from_numpy(SmallData().crops(ROWS)).permute(0, 3, 1, 2).float() / 255


def decoded(opened: list[FeatureStore], decoder: str, fusion: str) -> np.ndarray:
    """Images of an inverter whose linear part is fitted on the training rows, with a seeded decoder on top."""
    chosen = opened[: 1 if fusion == "none" else 2]
    blueprint = Blueprint(
        sources=tuple(str(store.source) for store in chosen),
        shapes=tuple(store.layout.row_shape for store in chosen),
        image=(16, 16),
        decoder=decoder,
        decoder_options={"kernel": 3} if decoder == "linear" else options(f"decoders.{decoder}"),
        fusion=fusion,
        fusion_options={} if fusion == "none" else options(f"fusions.{fusion}", channels=16),
        linear=None if decoder == "linear" else {"kernel": 3},
    )
    torch.manual_seed(0)
    inverter = Inverter(blueprint).eval()
    inverter.fit_statistics([(torch.from_numpy(store.mean), torch.from_numpy(store.std)) for store in chosen])
    inputs = Inputs(tuple(torch.from_numpy(store.read(ROWS)) for store in chosen))
    linear = inverter.linear
    assert linear is not None
    equations = NormalEquations(linear.parts, linear.ratio, torch.device("cpu"))
    with torch.no_grad():
        equations.update(inverter.stack(inverter.standardised(inputs)), images())
        solution = solve(equations, equations)
        linear.load_solution(solution.weight[:-1], solution.weight[-1])
        if inverter.decoder is not None:
            torch.nn.init.normal_(inverter.decoder.output.weight, std=0.01)
        return inverter(inputs).numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_power_of_two_changes_no_image(tmp_path: Path, exponent: int, dtype: str) -> None:
    usual, scaled = stores(tmp_path / "usual", 1.0, dtype), stores(tmp_path / "scaled", 2.0**exponent, dtype)
    for one, other in zip(usual, scaled, strict=True):
        np.testing.assert_allclose(other.std, one.std * 2.0**exponent, rtol=1e-6)
    cases = [("linear", "none"), ("transposed_conv", "none"), *(("transposed_conv", name) for name in FUSION_NAMES)]
    for decoder, fusion in cases:
        expected, found = decoded(usual, decoder, fusion), decoded(scaled, decoder, fusion)
        assert expected.std() > 0.01
        assert apart(found, expected) < 1e-4, (decoder, fusion)


@pytest.fixture(scope="module")
def in_unit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[FeatureStore]]:
    """The stores of a network whose unit is a power of two, by the exponent."""
    return cache(lambda exponent: stores(tmp_path_factory.mktemp("unit"), 2.0**exponent))


@pytest.fixture(scope="module")
def usual(
    in_unit: Callable[[int], list[FeatureStore]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trained]:
    return cache(lambda *overrides: _trained(in_unit(0), tmp_path_factory.mktemp("usual"), *overrides))


def _trained(opened: list[FeatureStore], work: Path, *overrides: str) -> Trained:
    return trained(opened if any(each.startswith("fusion=") for each in overrides) else opened[:1], work, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [-40, 12])
@pytest.mark.parametrize(
    "overrides",
    [
        *((f"decoder={name}", f"train.warm_start={warm}") for name in DECODERS.names() for warm in ("linear", "none")),
        *(("decoder=residual", f"fusion={name}") for name in FUSION_NAMES),
        *(("decoder=residual", f"protocols.fast.{each}") for each in RECIPES),
    ],
    ids=",".join,
)
def test_a_power_of_two_changes_no_training(
    in_unit: Callable[[int], list[FeatureStore]],
    usual: Callable[..., Trained],
    tmp_path: Path,
    overrides: tuple[str, ...],
    exponent: int,
) -> None:
    """Of the one layer alone, too: beside another, each has a unit of its own."""
    expected = usual(*overrides)
    found = _trained([in_unit(exponent)[0], in_unit(0)[1]], tmp_path / "work", *overrides)
    assert expected.images.std() > 0.005
    assert "decoder=linear" in overrides or expected.loss != expected.start_loss
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert apart(found.images, expected.images) < 0.01


class Offset(SmallBackbone):
    """Sixteenths far from zero, where float32 still holds each of them."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {k: (values * 16384).round() / 16 + self.offset for k, values in super().forward(images).items()}


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_an_offset_changes_no_deviation_and_no_image(tmp_path: Path, offset: float) -> None:
    found = {}
    for name, value in (("usual", 0.0), ("far", offset)):
        small_extraction(tmp_path / name, small_params(dtype="float32"), backbone=Offset(value))
        found[name] = [open_store(tmp_path / name / "features/small" / layer) for layer in SHAPES]
    for far, usual in zip(found["far"], found["usual"], strict=True):
        np.testing.assert_allclose(far.std, usual.std, rtol=1e-9)
        np.testing.assert_allclose(far.mean - offset, usual.mean, atol=1e-12 * offset)
    for decoder, fusion in (("linear", "none"), ("transposed_conv", FUSION_NAMES[0])):
        assert apart(*(decoded(found[name], decoder, fusion) for name in ("far", "usual"))) < 1e-3


@pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**12])
def test_a_channel_that_never_varies_becomes_zero(tmp_path: Path, unit: float) -> None:
    store = stores(tmp_path, unit)[1]
    standardise = Standardise(8)
    standardise.fit(torch.from_numpy(store.mean), torch.from_numpy(store.std))
    found = standardise(torch.from_numpy(store.read(ROWS)))
    assert found[:, [3, 5]].abs().max() == 0
    torch.testing.assert_close(found[:32, [0, 1]].std((0, 2, 3)), torch.ones(2), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("mean", "std", "kept"),
    [
        ([0.0, 0.0], [1e-20, 2e-20], [True, True]),
        ([0.0, 0.0], [1.0, 0.5 * DEAD * 0.7], [True, False]),  # nothing beside its layer
        ([1e3, 1e8], [1.0, 1.0], [True, False]),  # nothing beside its own mean: what float32 rounds there
        ([0.0, 0.0], [0.0, 0.0], [False, False]),
    ],
)
def test_constant_is_relative_to_the_layer_and_the_mean(mean: list[float], std: list[float], kept: list[bool]) -> None:
    standardise = Standardise(2)
    standardise.fit(torch.tensor(mean), torch.tensor(std))
    assert (standardise.scale.flatten() > 0).tolist() == kept
    assert torch.isfinite(standardise(torch.randn(1, 2, 2, 2))).all()


@pytest.mark.parametrize("unit", [1e-39, 1e-42])
def test_deviations_whose_reciprocal_exceeds_float32_give_a_finite_image(tmp_path: Path, unit: float) -> None:
    """Not the same image: so close to zero, float32 keeps fewer digits."""
    usual, far = (trained(stores(tmp_path / str(each), each)[:1], tmp_path, "decoder=linear") for each in (1.0, unit))
    assert np.isfinite(far.images).all()
    assert far.loss == pytest.approx(usual.loss, rel=0.05)


def test_a_dead_layer_gives_the_mean_colour() -> None:
    features, pixels = torch.zeros(6, 4, 4, 4), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    equations = NormalEquations([(4, 3)], 2, torch.device("cpu"))
    equations.update(features, pixels)
    weight = solve(equations, equations).weight
    assert weight[:-1].abs().max() == 0
    blocks = torch.nn.functional.pixel_unshuffle(pixels.double(), 2).mean((0, 2, 3))
    torch.testing.assert_close(weight[-1], blocks)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_agreement_has_no_unit(exponent: int) -> None:
    one, other = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = agreement(one, other)
    for found, value in zip(agreement(one * 2.0**exponent, other * 2.0**exponent), expected, strict=True):
        torch.testing.assert_close(found, value)
    torch.testing.assert_close(expected[0], torch.cosine_similarity(one.flatten(1), other.flatten(1)).double())


@pytest.mark.parametrize(("again", "error"), [(0.0, 0.0), (1e-30, 1.0), (1e30, 1.0)])
def test_agreement_with_features_that_are_all_zero_is_a_number(again: float, error: float) -> None:
    stored = torch.zeros(1, 1, 2, 2)
    assert [values.tolist() for values in agreement(stored + again, stored)] == [[0.0], [error]]


def test_muons_direction_has_no_unit() -> None:
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(matrix * 2.0**-40), orthogonalise(matrix))
    assert orthogonalise(torch.zeros(2, 3)).abs().max() == 0


def in_unit_of(backbone: FrozenNetwork, unit: float) -> FrozenNetwork:
    """A vision transformer whose tokens are `unit` times as large in every block."""
    model = backbone.network.model
    model.cls_token.mul_(unit)
    model.pos_embed.mul_(unit)
    for module in (
        model.patch_embed.proj,
        *(layer for each in model.blocks for layer in (each.attn.proj, each.mlp.fc2)),
    ):
        module.weight.mul_(unit)
        module.bias.mul_(unit)
    for each in model.blocks:
        for norm in (each.norm1, each.norm2):
            norm.eps *= unit**2 or 1
    return backbone


@torch.no_grad()
def known_layer(refiner: str, unit: float) -> KnownLayer:
    """The layer of a network in that unit that the refiner can work on; in unit 0 all its features are zero."""
    if refiner != "block_inverse":
        return KnownLayer(Source("small", "deep"), Scaled(unit), ImageSize(16, 16), "fp32")  # type: ignore[arg-type]
    entry = backbone_params(library="timm", model="test_vit", layers=["block1"])
    tiny = in_unit_of(load_backbone("tiny", entry, CPU), unit)
    return KnownLayer(Source("tiny", "block1"), tiny, ImageSize(32, 32), "fp32")  # type: ignore[arg-type]


@torch.no_grad()
def refined(name: str, unit: float, present: float = 1.0, **changes: object) -> Step:
    """Two images matched again through a network in that unit; `present` is a factor of their features."""
    layer = known_layer(name, unit)
    shown = torch.nn.functional.interpolate(images(), (layer.image.height, layer.image.width))
    crops = (shown * 255).round().byte().permute(0, 2, 3, 1).numpy()
    pairs = [SimpleNamespace(inputs=Inputs((layer(part),)), targets=part) for part in (shown[2:26], shown[26:])]
    refiner = build_refiner(name, changes, layer, 12)
    refiner.learn(
        SimpleNamespace(  # type: ignore[arg-type]
            training=lambda count: pairs[:1],
            validation=lambda: pairs[1:],
            prior=lambda: ImagePrior.of(*moments([crops])),
        )
    )
    return list(refiner.refine(present * layer(shown[:2]), torch.full_like(shown[:2], START)))[-1]


@pytest.mark.parametrize("exponent", [-40, 12])
@pytest.mark.parametrize(
    ("name", "changes"), [*((name, {}) for name in REFINERS.names()), ("map", {"descent": "lbfgs"})]
)
def test_a_power_of_two_changes_no_refined_image(name: str, changes: dict[str, str], exponent: int) -> None:
    usual, scaled = refined(name, 1.0, **changes), refined(name, 2.0**exponent, **changes)
    assert usual.images.std() > 0.005
    torch.testing.assert_close(scaled.images, usual.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.feature_error, usual.feature_error, rtol=1e-3, atol=0)


@pytest.mark.parametrize("exponent", [-40, 12])
@pytest.mark.parametrize("name", ["lbfgs", "map"])
def test_a_power_of_two_changes_no_image_of_features_that_are_all_zero(name: str, exponent: int) -> None:
    usual, scaled = refined(name, 1.0, present=0.0), refined(name, 2.0**exponent, present=0.0)
    assert (usual.images - START).abs().max() > 0.05  # the network gives others at the start
    torch.testing.assert_close(scaled.images, usual.images, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", REFINERS.names())
def test_of_a_dead_layer_all_images_are_refined_alike_and_without_detail(name: str) -> None:
    step = refined(name, 0.0)
    assert step.feature_error.isfinite().all()
    torch.testing.assert_close(step.images[0], step.images[1], atol=1e-5, rtol=0)
    colour, reached = float(images().mean()), float(step.images.mean())
    if name == "lbfgs":  # knows no photographs
        assert reached == pytest.approx(START)
    else:
        assert abs(reached - colour) < 0.9 * abs(START - colour)
    assert step.images.std((2, 3)).max() < 0.1  # 0.29 of the photographs, some blocks of which are averaged

"""The unit of the features changes no result, and channels that never vary become zero."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from shipped import build_refiner, options
from small_stores import SmallBackbone, SmallData, apart, small_extraction, small_params

from pipeline.core.sources import ImageSize, Inputs, Source
from pipeline.models.common.fusion import FUSIONS
from pipeline.models.common.inverter import Blueprint, Inverter, Standardise
from pipeline.models.common.prior import ImagePrior, moments
from pipeline.models.common.ridge import NormalEquations, solve
from pipeline.refinement.base import KnownLayer, Step
from pipeline.refinement.consistency import agreement
from pipeline.stores.base import FeatureStore
from pipeline.stores.manifest import DEAD
from pipeline.stores.opening import open_store
from pipeline.training.optimizers import orthogonalise

EXPONENTS = (-40, -13, 12)
ROWS = np.arange(40)
SHAPES = {"deep": (16, 4, 4), "shallow": (8, 8, 8)}
FUSION_NAMES = [name for name in FUSIONS.names() if name != "none"]


class Scaled(SmallBackbone):
    """The same network in another unit; `shallow` has a channel that never varies and one that is zero."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = super().forward(images)
        features["shallow"] = features["shallow"].clone()
        features["shallow"][:, 3], features["shallow"][:, 5] = 0.7, 0
        return {layer: values * self.unit for layer, values in features.items()}


def stores(root: Path, unit: float) -> list[FeatureStore]:
    small_extraction(root, small_params(dtype="float32"), backbone=Scaled(unit))
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


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_power_of_two_changes_no_image(tmp_path: Path, exponent: int) -> None:
    usual, scaled = stores(tmp_path / "usual", 1.0), stores(tmp_path / "scaled", 2.0**exponent)
    for one, other in zip(usual, scaled, strict=True):
        np.testing.assert_allclose(other.std, one.std * 2.0**exponent, rtol=1e-6)
    cases = [("linear", "none"), ("transposed_conv", "none"), *(("transposed_conv", name) for name in FUSION_NAMES)]
    for decoder, fusion in cases:
        expected, found = decoded(usual, decoder, fusion), decoded(scaled, decoder, fusion)
        assert expected.std() > 0.01
        assert apart(found, expected) < 1e-4, (decoder, fusion)


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
    assert all(torch.isfinite(values).all() for values in agreement(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)))


def test_muons_direction_has_no_unit() -> None:
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(matrix * 2.0**-40), orthogonalise(matrix))
    assert orthogonalise(torch.zeros(2, 3)).abs().max() == 0


def refined(name: str, unit: float) -> Step:
    """Two images matched again through a network in that unit."""
    layer = KnownLayer(Source("small", "deep"), Scaled(unit), ImageSize(16, 16), "fp32")  # type: ignore[arg-type]
    pair = SimpleNamespace(inputs=Inputs(()), targets=images()[2:10])
    prior = ImagePrior.of(*moments([SmallData().crops(ROWS)]))
    refiner = build_refiner(name, {}, layer, 12)
    refiner.learn(SimpleNamespace(training=lambda count: [pair], prior=lambda: prior))  # type: ignore[arg-type]
    with torch.no_grad():
        features = layer(images()[:2])
    return list(refiner.refine(features, torch.full_like(images()[:2], 0.5)))[-1]


@pytest.mark.parametrize("exponent", [-40, 12])
@pytest.mark.parametrize("name", ["lbfgs", "map"])
def test_a_power_of_two_changes_no_refined_image(name: str, exponent: int) -> None:
    usual, scaled = refined(name, 1.0), refined(name, 2.0**exponent)
    assert usual.images.std() > 0.005
    torch.testing.assert_close(scaled.images, usual.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.feature_error, usual.feature_error, rtol=1e-3, atol=0)

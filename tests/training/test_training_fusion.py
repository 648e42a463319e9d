"""`decoder: linear` over a fusion of two layers on unequal grids, against a ridge regression written out here."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_experiment import CPU, Experiment, experiment

from pipeline.core.sources import Inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.models.common.inverter import Blueprint, Inverter, load_inverter
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.slow

KERNEL = "decoders.linear.kernel=1"
PAIR = (
    "fusion=weighted",
    "ensemble.second={backbone: resnet34, layer: layer2}",
    "backbones.resnet34.layers=[layer2]",
    KERNEL,
)


@pytest.fixture(scope="module")
def made() -> Experiment:
    """64×32×32 of vgg16.block1 and 128×8×8 of resnet34.layer2."""
    return experiment("linear", *PAIR)


def _bilinear(fine: int, coarse: int) -> NDArray[np.float64]:
    """(fine, coarse): each fine pixel's centre between the centres of two coarse ones; edges repeat."""
    centre = ((np.arange(fine) + 0.5) * coarse / fine - 0.5).clip(0, coarse - 1)
    return np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(coarse)))


def _on_grid(features: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    rows, columns = _bilinear(height, features.shape[2]), _bilinear(width, features.shape[3])
    return rows @ features @ columns.T


def _design(made: Experiment, split: str) -> tuple[NDArray[np.float64], NDArray[np.float64], Inputs[torch.Tensor]]:
    """Standardised, stacked features (N, C); pixel blocks under them (N, 12); and the features as they are read."""
    stores = tuple(open_store(made.features / name) for name in ("resnet34/layer2", "vgg16/block1"))  # sorted by name
    with CachedFeatures(made.data(), Inputs(stores), CPU) as cached:
        (batch,) = cached.batches([made.data().rows(split)])
    parts = []
    for store, features in zip(stores, batch.inputs, strict=True):
        scale = np.where(store.std > 1e-6, store.std, 1)  # a constant channel carries nothing
        standard = (features.double().numpy() - store.mean[:, None, None]) / scale[:, None, None]
        parts.append(_on_grid(standard, 32, 32))
    stacked = np.concatenate(parts, axis=1)
    blocks = F.pixel_unshuffle(batch.targets, 2).double().numpy()
    return _rows(stacked), _rows(blocks), batch.inputs


def _rows(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, C, H, W) → (B·H·W, C)."""
    return np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])


def test_linear_over_a_fusion_is_a_ridge_on_all_sources_on_the_largest_grid(made: Experiment) -> None:
    x, y, _ = _design(made, "train")
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    strengths = json.loads((made.models / "model.json").read_text())["ridge"]["strengths"]  # of 128 and 64 channels
    parts = zip(strengths, (slice(128), slice(128, None)), strict=True)
    own = [np.full(centred[:, part].shape[1], s * np.square(centred[:, part]).sum(0).mean()) for s, part in parts]
    penalty = np.diag(np.sqrt(np.concatenate(own)))
    targets = np.concatenate([y - mean_y, np.zeros((len(penalty), y.shape[1]))])
    slope = np.linalg.lstsq(np.concatenate([centred, penalty]), targets, rcond=None)[0]
    x, _, features = _design(made, "validation")
    expected = ((x - mean_x) @ slope + mean_y).clip(0, 1)
    with torch.no_grad():
        image = load_inverter(made.models, CPU)(features)
    assert np.abs(_rows(F.pixel_unshuffle(image, 2).numpy()) - expected).max() < 1e-3


def test_the_fusion_has_no_part_in_linear(made: Experiment) -> None:
    weights = load_inverter(made.models, CPU).state_dict()
    assert {name.partition(".")[0] for name in weights} == {"standardise", "linear"}
    assert weights["linear.output.weight"].shape == (12, 128 + 64, 1, 1)


def test_sources_are_stacked_bilinearly_on_the_largest_grid() -> None:
    blueprint = Blueprint(
        sources=("a.x", "b.y", "c.z"), shapes=((2, 4, 6), (3, 8, 12), (1, 2, 12)), image=(16, 24),
        decoder="linear", decoder_options={}, fusion="none", fusion_options={}, linear=None,
    )  # fmt: skip
    torch.manual_seed(0)
    inputs = [torch.randn(2, *shape) for shape in blueprint.shapes]
    stacked = Inverter(blueprint).stack(inputs)
    assert stacked.shape == (2, 6, 8, 12)
    expected = np.concatenate([_on_grid(each.double().numpy(), 8, 12) for each in inputs], axis=1)
    np.testing.assert_allclose(stacked.numpy(), expected, atol=1e-5)

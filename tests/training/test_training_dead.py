"""Sources that say nothing: beside a live one they cost nothing, and alone they give the mean colour."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_stores import SmallBackbone, SmallData, small_extraction, small_params
from small_training import ROWS, trained

from pipeline.models.common.fusion import FUSIONS
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.slow

FUSION_NAMES = [name for name in FUSIONS.names() if name != "none"]
ROUNDING = 1e-4
KINDS = {"zero": 0.0, "constant": 0.7}
Stores = Callable[[str], dict[str, FeatureStore]]


class Filled(SmallBackbone):
    """Every feature of its layers is `value`; None: as they are."""

    def __init__(self, name: str, value: float | None) -> None:
        super().__init__(name=name)
        self.value = value

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(images)
        return found if self.value is None else {k: torch.full_like(each, self.value) for k, each in found.items()}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """By layer, of a network that is `live` or filled with `zero` or a `constant`, or `again` the live one."""

    def extracted(name: str) -> dict[str, FeatureStore]:
        root = tmp_path_factory.mktemp(name)
        small_extraction(root, small_params(dtype="float32"), backbone=Filled(name, KINDS.get(name)))
        return {layer: open_store(root / "features/small" / layer) for layer in SmallBackbone.layers}

    return cache(extracted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("live", "dead"), [("shallow", "deep"), ("deep", "shallow"), ("shallow", "shallow")])
@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_a_dead_source_beside_a_live_one_costs_nothing(
    stores: Stores, tmp_path: Path, fusion: str, live: str, dead: str, kind: str
) -> None:
    alone = trained([stores("live")[live]], tmp_path / "alone", "decoder=linear")
    both = trained(
        [stores("live")[live], stores(kind)[dead]], tmp_path / "both", f"fusion={fusion}", "decoder=transposed_conv"
    )
    assert both.start_loss <= alone.loss * (1 + ROUNDING)
    if live == "shallow":  # on whose grid both are read
        np.testing.assert_allclose(both.start, alone.images, atol=ROUNDING)
    assert both.loss != both.start_loss  # a step was made
    assert np.isfinite(both.images).all()
    assert both.best <= alone.loss * (1 + ROUNDING)


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_a_source_that_is_there_twice_costs_nothing(stores: Stores, tmp_path: Path, fusion: str) -> None:
    alone = trained([stores("live")["shallow"]], tmp_path / "alone", "decoder=linear")
    both = [stores(name)["shallow"] for name in ("live", "again")]
    twice = trained(both, tmp_path / "both", f"fusion={fusion}", "decoder=transposed_conv")
    assert twice.start_loss <= alone.loss * (1 + ROUNDING)
    assert np.isfinite(twice.images).all()
    assert twice.best <= alone.loss * (1 + ROUNDING)


@pytest.mark.parametrize("warm", ["linear", "none"])
@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_where_all_sources_are_dead_there_is_one_image_and_first_the_mean_colour(
    stores: Stores, tmp_path: Path, fusion: str, warm: str
) -> None:
    dead = [stores("zero")["deep"], stores("constant")["shallow"]]
    settings = (f"fusion={fusion}", "decoder=transposed_conv", f"train.warm_start={warm}")
    found = trained(dead, tmp_path / "work", *settings)
    if warm == "linear":
        data = SmallData()
        pixels = torch.from_numpy(data.crops(data.rows("train"))).permute(0, 3, 1, 2).double() / 255
        blocks = F.pixel_unshuffle(torch.from_numpy(found.start), 2)
        mean = F.pixel_unshuffle(pixels, 2).mean((0, 2, 3), keepdim=True).float()
        torch.testing.assert_close(blocks, mean.expand(blocks.shape), atol=1e-5, rtol=0)
        assert found.best <= found.start_loss
    assert np.isfinite(found.images).all()
    assert len(found.images) == len(ROWS)
    np.testing.assert_allclose(found.images, found.images[:1].repeat(len(ROWS), axis=0), atol=1e-5)

"""Networks of every kind, untrained, whose features lie in ranges of their own: what a float16 store holds is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shipped import backbone_params
from small_stores import CPU, SmallData, small_extraction, small_params

from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.backbones.timm_networks import outline
from pipeline.core.errors import ShapeError, StoreError
from pipeline.core.sources import ImageSize
from pipeline.stores.encoding import ROUNDING_LIMIT, rgb
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.slow

NETWORKS = (
    *("convnext_atto", "mobilenetv3_small_050", "regnetx_002", "efficientnet_lite0", "resnet10t", "test_vit"),
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "levit_128s", "edgenext_xx_small", "ghostnet_050"),
    *("mnasnet_small", "lcnet_035", "tinynet_e", "fbnetc_100", "hardcorenas_a", "dla46_c", "semnasnet_075"),
    *("repvgg_a0", "mixer_s32_224", "pit_ti_224", "pvt_v2_b0", "mobilevit_xxs", "nf_regnet_b0", "xcit_nano_12_p16_224"),
)


def network(model: str) -> tuple[Backbone, int]:
    """With all of its layers, and the edge of the images it takes: 64 where that goes."""
    entry = backbone_params(library="timm", model=model)
    backbone = load_backbone("mine", entry, CPU, outline(model).layer_names)
    try:
        backbone.shapes(ImageSize(64, 64))
        return backbone, 64
    except ShapeError:
        return backbone, 224


def share(features: torch.Tensor, stored: torch.Tensor) -> float:
    """The error of `stored`, of the deviation of the layer."""
    spread = (features - features.mean((0, 2, 3), keepdim=True)).double().square().mean().sqrt()
    return float((stored - features).double().square().mean().sqrt() / spread)


@pytest.mark.parametrize("model", NETWORKS)
def test_a_float16_store_meets_its_limit_or_is_refused(tmp_path: Path, model: str) -> None:
    backbone, crop = network(model)
    data = SmallData(rows=10, crop=crop)
    with torch.inference_mode():
        exact = backbone(rgb(torch.from_numpy(data.crops(np.arange(10)))))
    half = small_params(dtype="float16")
    if max(share(features, features.half()) for features in exact.values()) > ROUNDING_LIMIT:
        with pytest.raises(StoreError, match=r"set store\.dtype to "):
            small_extraction(tmp_path, half, backbone=backbone, data=data)
        return
    small_extraction(tmp_path, half, backbone=backbone, data=data)
    for layer, features in exact.items():
        read = torch.from_numpy(open_store(tmp_path / "features/small" / layer).read(np.arange(10)))
        assert share(features, read) < 2 * ROUNDING_LIMIT, layer  # the limit holds on some rows

"""Backbones at image sizes they were not built for: the shapes they give, and the sizes that are refused."""

from __future__ import annotations

import pytest
import torch
from known_backbones import CPU, SIZE, SMALL_VIT, SWIN, TABLE, Executed, photograph, whole
from messages import says
from shipped import backbone_params

from pipeline.backbones.backbone import feature_shapes, load_backbone
from pipeline.core.errors import ShapeError
from pipeline.core.params import BackboneParams
from pipeline.core.sources import FeatureShape, ImageSize


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vgg16", ImageSize(96, 64)),
        ("resnet50", ImageSize(70, 33)),
        ("pvt_v2_b2", ImageSize(96, 128)),
        ("vit_small", ImageSize(96, 160)),
    ],
)
@torch.inference_mode()
def test_other_image_sizes(name: str, size: ImageSize) -> None:
    found = whole(name)(photograph(size.height, size.width))
    shapes = {layer: FeatureShape(*features.shape[1:]) for layer, features in found.items()}
    assert shapes == feature_shapes(name, backbone_params(), list(TABLE[name]), size)
    assert shapes != TABLE[name]


DINOV2 = backbone_params(library="timm", model="vit_small_patch14_dinov2")  # built for 518×518


@pytest.mark.parametrize(
    ("entry", "layer", "size", "shape"),
    [
        (SWIN, "stage2", ImageSize(100, 64), FeatureShape(192, 13, 8)),
        (DINOV2, "block0", SIZE, FeatureShape(384, 16, 16)),
    ],
    ids=["swin", "dinov2"],
)
@torch.inference_mode()
def test_transformers_built_for_one_size_take_others(
    entry: BackboneParams, layer: str, size: ImageSize, shape: FeatureShape
) -> None:
    assert feature_shapes("mine", entry, [layer], size) == {layer: shape}
    found = load_backbone("mine", entry, CPU, [layer])(photograph(size.height, size.width))[layer]
    assert FeatureShape(*found.shape[1:]) == shape


def test_a_vit_at_another_size_resamples_its_positions_and_keeps_its_weights() -> None:
    backbone = load_backbone("mine", SMALL_VIT, CPU, ["block0"])
    before = backbone.weights.sha256
    assert backbone.shapes(ImageSize(96, 64))["block0"] == FeatureShape(64, 6, 4)
    assert backbone(photograph(96, 64))["block0"].shape == (1, 64, 6, 4)
    assert load_backbone("mine", SMALL_VIT, CPU, ["block0"]).weights.sha256 == before


REFUSED = {
    ("vgg16", 16): "vgg16 cannot take images of 16×16 pixels (Given input size: (512x1x1). Calculated output size: "
    "(512x0x0). Output size is too small); change prepare.crop",
    ("vit_small", 100): "vit_small cannot take images of 100×100 pixels (Input height (100) should be divisible by "
    "patch size (16).); change prepare.crop",
}


@pytest.mark.parametrize(("name", "edge"), REFUSED)
def test_sizes_that_do_not_go_are_refused_before_anything_is_computed(name: str, edge: int) -> None:
    deepest = list(TABLE[name])[-1]
    with pytest.raises(ShapeError) as error:
        feature_shapes(name, backbone_params(), [deepest], ImageSize(edge, edge))
    assert str(error.value) == REFUSED[name, edge]
    with pytest.raises(ShapeError) as error, Executed(whole(name).network.model) as calls:
        whole(name)(photograph(edge, edge))
    assert str(error.value) == REFUSED[name, edge]
    assert not calls


@pytest.mark.parametrize("model", ["botnet26t_256", "halonet26t"])
def test_a_refusal_of_the_library_without_a_word_is_a_sentence_too(model: str) -> None:
    """Their attention is built for one grid, and asserts it with an empty message."""
    with pytest.raises(ShapeError) as error:
        feature_shapes("mine", backbone_params(library="timm", model=model), ["stage5"], SIZE)
    says(error.value, "mine", "224×224", "AssertionError", "change prepare.crop")

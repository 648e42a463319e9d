"""Mistakes in the entry of a backbone: each gets its sentence, before any weights are read."""

from __future__ import annotations

import pytest
from known_backbones import CPU, SIZE
from shipped import backbone_params

from pipeline.backbones.backbone import check_backbone, load_backbone
from pipeline.core.errors import ParamsError, ShapeError, WeightsError
from pipeline.core.sources import ImageSize

MISTAKES = {
    "params.yaml: backbones.vgg16.layers = 'blok1' is unknown (did you mean 'block1'?); choose one of: block1, block2, "
    "block3, block4, block5, or a module by its path": ("vgg16", {"layers": ["blok1"]}),
    "params.yaml: backbones.vgg16.layers is empty; list some of: block1, block2, block3, block4, block5": ("vgg16", {}),
    "params.yaml: backbones.vgg16.layers names a layer twice: block1, block1": (
        "vgg16",
        {"layers": ["block1", "block1"]},
    ),
    "params.yaml: backbones.mine is not one of vgg16, resnet34, resnet50, vit_small, vit_base, pvt_v2_b2, "
    "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, so its entry must say which model it is; "
    "add library: timm and model: <a name from timm.list_models()>": ("mine", {}),
    "params.yaml: backbones.mine has no model; library and model go together": ("mine", {"library": "timm"}),
    "params.yaml: backbones.mine has no library; library and model go together": ("mine", {"model": "test_vit"}),
    "params.yaml: backbones.vgg16 is torchvision's vgg16 by definition, not timm's vgg16; give the entry another "
    "name": (
        "vgg16",
        {"library": "timm", "model": "vgg16"},
    ),
    "params.yaml: backbones.mine.model = 'test_vitt' is not a timm model (did you mean 'test_vit'?); "
    "timm.list_models() lists them": ("mine", {"library": "timm", "model": "test_vitt"}),
    "params.yaml: backbones.mine.model = 'swin_tiny' is not a timm model (did you mean "
    "'swin_tiny_patch4_window7_224'?); timm.list_models() lists them": (
        "mine",
        {"library": "timm", "model": "swin_tiny"},
    ),
    "params.yaml: backbones.mine.model = 'test_vit.r160_in1k' holds a tag; write model: test_vit and tag: r160_in1k": (
        "mine",
        {"library": "timm", "model": "test_vit.r160_in1k"},
    ),
    "params.yaml: backbones.mine.layers = 'block6' is unknown (did you mean 'block5'?); choose one of: block0, block1, "
    "block2, block3, block4, block5, or a module by its path": (
        "mine",
        {"library": "timm", "model": "test_vit", "layers": ["block6"]},
    ),
    "params.yaml: backbones.mine has one of mean and std; give both or neither": (
        "mine",
        {"library": "timm", "model": "test_vit", "mean": [0.5, 0.5, 0.5]},
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_mistakes_get_their_sentence(sentence: str) -> None:
    name, values = MISTAKES[sentence]
    with pytest.raises(ParamsError) as error:
        load_backbone(name, backbone_params(**values), CPU)
    assert str(error.value) == sentence


def test_torchvision_models_of_other_families_are_refused() -> None:
    entry = backbone_params(library="torchvision", model="alexnet", layers=("block1",))
    with pytest.raises(
        ParamsError, match=r"'alexnet' is not one of torchvision's VGGs and ResNets \(resnet101, .*timm"
    ):
        load_backbone("mine", entry, CPU)


def test_a_timm_model_without_feature_maps_is_refused() -> None:
    entry = backbone_params(library="timm", model="gemma4_vit_167m", layers=("block1",))
    with pytest.raises(ParamsError, match=r"'gemma4_vit_167m' gives no feature maps by timm's forward_intermediates"):
        load_backbone("mine", entry, CPU)


def test_a_timm_model_refused_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: str) -> None:
        raise AssertionError

    monkeypatch.setattr("pipeline.backbones.timm_networks.outline", refuse)
    entry = backbone_params(library="timm", model="test_vit", layers=("block1",))
    with pytest.raises(ParamsError, match=r"forward_intermediates \(AssertionError\); choose another model$"):
        load_backbone("mine", entry, CPU)


def test_an_entry_is_checked_without_reading_weights() -> None:
    check_backbone("vgg16", backbone_params(weights="imagenet", layers=("block1",)), SIZE)
    with pytest.raises(ParamsError, match=r"backbones\.vgg16\.tag = 'V9' is unknown"):
        check_backbone("vgg16", backbone_params(weights="imagenet", tag="V9", layers=("block1",)), SIZE)
    with pytest.raises(WeightsError, match=r"backbones\.vgg16\.weights = 'nowhere\.pth' is not a file"):
        check_backbone("vgg16", backbone_params(weights="nowhere.pth", layers=("block1",)), SIZE)
    with pytest.raises(ShapeError, match=r"vit_small cannot take images of 90×90 pixels"):
        check_backbone("vit_small", backbone_params(layers=("block1",)), ImageSize(90, 90))

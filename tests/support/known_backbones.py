"""The table of backbones, each built once a process, a photograph to show them, and a count of what runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from shipped import backbone_params
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.core.sources import FeatureShape, ImageSize

CPU = torch.device("cpu")
SIZE = ImageSize(224, 224)

# DESIGN.md, the table of backbones
TABLE = {
    "vgg16": {
        "block1": FeatureShape(64, 112, 112),
        "block2": FeatureShape(128, 56, 56),
        "block3": FeatureShape(256, 28, 28),
        "block4": FeatureShape(512, 14, 14),
        "block5": FeatureShape(512, 7, 7),
    },
    "resnet34": {
        "layer1": FeatureShape(64, 56, 56),
        "layer2": FeatureShape(128, 28, 28),
        "layer3": FeatureShape(256, 14, 14),
        "layer4": FeatureShape(512, 7, 7),
    },
    "resnet50": {
        "layer1": FeatureShape(256, 56, 56),
        "layer2": FeatureShape(512, 28, 28),
        "layer3": FeatureShape(1024, 14, 14),
        "layer4": FeatureShape(2048, 7, 7),
    },
    "vit_small": {f"block{index}": FeatureShape(384, 14, 14) for index in range(12)},
    "vit_base": {f"block{index}": FeatureShape(768, 14, 14) for index in range(12)},
    "pvt_v2_b2": {
        "stage1": FeatureShape(64, 56, 56),
        "stage2": FeatureShape(128, 28, 28),
        "stage3": FeatureShape(320, 14, 14),
        "stage4": FeatureShape(512, 7, 7),
    },
    "efficientnet_lite0": {
        "stage1": FeatureShape(16, 112, 112),
        "stage2": FeatureShape(24, 56, 56),
        "stage3": FeatureShape(40, 28, 28),
        "stage4": FeatureShape(112, 14, 14),
        "stage5": FeatureShape(320, 7, 7),
    },
    "efficientnet_lite1": {
        "stage1": FeatureShape(16, 112, 112),
        "stage2": FeatureShape(24, 56, 56),
        "stage3": FeatureShape(40, 28, 28),
        "stage4": FeatureShape(112, 14, 14),
        "stage5": FeatureShape(320, 7, 7),
    },
    "efficientnet_lite2": {
        "stage1": FeatureShape(16, 112, 112),
        "stage2": FeatureShape(24, 56, 56),
        "stage3": FeatureShape(48, 28, 28),
        "stage4": FeatureShape(120, 14, 14),
        "stage5": FeatureShape(352, 7, 7),
    },
}

# other timm models: an entry alone makes them backbones
SMALL_VIT = backbone_params(library="timm", model="test_vit")
CONVNEXT = backbone_params(library="timm", model="test_convnext")
SWIN = backbone_params(library="timm", model="swin_tiny_patch4_window7_224")


@cache
def whole(name: str) -> Backbone:
    """The backbone with all its layers, random weights of seed 0."""
    return load_backbone(name, backbone_params(), CPU, list(TABLE[name]))


def photograph(height: int = 224, width: int = 224, count: int = 1) -> Tensor:
    """Something with edges and flat parts, (count, 3, height, width) in [0, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(5))
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


class Executed:
    """Counts how often each module of a network runs."""

    def __init__(self, network: nn.Module) -> None:
        self.calls: dict[str, int] = {}
        self.handles = [
            module.register_forward_hook(self._counter(name)) for name, module in network.named_modules() if name
        ]

    def _counter(self, name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1

        return count

    def __enter__(self) -> dict[str, int]:
        return self.calls

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

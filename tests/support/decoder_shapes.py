"""Shapes that decoders are held against."""

from __future__ import annotations

from pipeline.core.sources import FeatureShape

# every different shape in the table of backbones, at 224×224
SOURCE_SHAPES = [
    *((64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)),  # vgg16
    *((64, 56, 56), (128, 28, 28), (256, 14, 14)),  # resnet34, pvt_v2_b2
    *((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)),  # resnet50
    *((384, 14, 14), (768, 14, 14)),  # vit_small, vit_base
    (320, 14, 14),  # pvt_v2_b2
    *((16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)),  # efficientnet_lite0, lite1
    *((48, 28, 28), (120, 14, 14), (352, 7, 7)),  # efficientnet_lite2
]
FAST = {"attention": {"blocks": 1}}  # for the big shapes: a block on 12,544 tokens takes seconds on one core


def shape_id(shape: tuple[int, int, int]) -> str:
    return str(FeatureShape(*shape))

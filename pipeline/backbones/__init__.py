"""Frozen networks whose layers are inverted: one forward pass, every requested layer, honest weights."""

from pipeline.backbones.backbone import Backbone, check_backbone, feature_shapes, load_backbone, published_weights
from pipeline.backbones.base import FrozenNetwork
from pipeline.backbones.normalization import Normalization
from pipeline.backbones.table import BACKBONES
from pipeline.backbones.weights import WeightsRecord

__all__ = [
    "BACKBONES",
    "Backbone",
    "FrozenNetwork",
    "Normalization",
    "WeightsRecord",
    "check_backbone",
    "feature_shapes",
    "load_backbone",
    "published_weights",
]

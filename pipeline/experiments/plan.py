"""Predict the size of the stores and the time of the backbone, before anything is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.backbones.backbone import feature_shapes, load_backbone
from pipeline.core.errors import StoreError
from pipeline.core.params import BackboneParams, Params
from pipeline.core.paths import Paths
from pipeline.core.sources import FeatureShape, ImageSize, Source
from pipeline.extraction.compute import Computer
from pipeline.extraction.job import Job, layouts
from pipeline.loading.inputs import REFINED_IMAGES, open_features, open_inputs
from pipeline.stores.layout import Layout
from pipeline.stores.prepared import PreparedData

TIMED = 3  # batches; the first one is not counted


@dataclass(frozen=True)
class BackbonePlan:
    """The stores of one backbone, or of the refined images: their layouts, and whether all exist already."""

    name: str
    layouts: Mapping[str, Layout]
    present: bool

    @property
    def bytes(self) -> int:
        """Bytes that remain to be written."""
        return 0 if self.present else sum(layout.expected_bytes for layout in self.layouts.values())


def plan_backbone(name: str, params: Params, data: PreparedData, paths: Paths) -> BackbonePlan:
    """The stores that extracting backbone `name` will write; needs no weights.

    Raises:
        ParamsError: an unknown layer. ShapeError: the network cannot take crops of this size.
    """
    entry = params.backbone_params(name)
    shapes = feature_shapes(name, entry, entry.layers, ImageSize(data.crop, data.crop))
    sources = [Source(name, layer) for layer in entry.layers]
    present = _opens(lambda: open_features(paths.features, sources, params, data, verify="never"))
    return BackbonePlan(name, layouts(shapes, len(data), params.store, params.extract), present)


def plan_first_stage(params: Params, data: PreparedData, paths: Paths) -> BackbonePlan:
    """The store that refining every photograph of `data` will write."""
    shapes = {REFINED_IMAGES.name: FeatureShape(3, data.crop, data.crop)}
    present = _opens(lambda: open_inputs(paths, params.sources, params, data, verify="never"))
    return BackbonePlan(str(REFINED_IMAGES.parent), layouts(shapes, len(data), params.store, params.extract), present)


def estimate_seconds(name: str, params: Params, data: PreparedData, device: torch.device) -> float:
    """Time for all rows on this machine, from a few batches; with random weights, which are as fast as others."""
    # tag, mean and std belong to trained weights
    untrained = {"weights": "random", "seed": 0, "tag": None, "mean": None, "std": None}
    entry: BackboneParams = params.backbone_params(name).model_copy(update=untrained)
    job = Job(load_backbone(name, entry, device), data, params.store, params.extract, device)
    size = min(job.batch_size, len(data))
    computed = Computer(job).pieces([np.arange(size)] * TIMED)
    next(computed).wait()
    start = time.perf_counter()
    rows = 0
    for piece in computed:
        piece.wait()
        rows += len(piece.rows)
    return (time.perf_counter() - start) * len(data) / rows


def _opens(open_stores: Callable[[], object]) -> bool:
    try:
        open_stores()
    except StoreError:
        return False
    return True

"""Estimate a study before it runs: disk for its features, time for its experiments."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from pipeline.backbones.backbone import feature_shapes
from pipeline.core.params import Params
from pipeline.core.sources import ImageSize, Inputs
from pipeline.extraction.job import layouts
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.models.common.ridge import NormalEquations
from pipeline.training.losses import Loss
from pipeline.training.run import build_fitter


@dataclass(frozen=True)
class Images:
    """The number of images in each split."""

    train: int
    validation: int
    test: int

    def rows(self, views: int) -> int:
        return self.train * views + self.validation + self.test


def feature_bytes(params: Iterable[Params], images: Images) -> int:
    """Bytes of all features that these experiments need: every layer that params.yaml lists for their backbones.

    Experiments with equal backbone, data and store share features, which count once.
    """
    stores: dict[str, int] = {}
    for each in params:
        crop = ImageSize(each.prepare.crop, each.prepare.crop)
        for source in each.sources:
            entry = each.backbone_params(source.backbone)
            facts = (source.backbone, entry, each.seed, each.dataset, each.prepare, each.extract, each.store)
            if repr(facts) in stores:
                continue
            shapes = feature_shapes(source.backbone, entry, entry.layers, crop)
            placed = layouts(shapes, images.rows(each.prepare.views), each.store, each.extract)
            stores[repr(facts)] = sum(layout.expected_bytes for layout in placed.values())
    return sum(stores.values())


def experiment_seconds(params: Params, images: Images, device: torch.device) -> float:
    """Seconds that `train` spends on the images, from a few batches of noise: an upper bound of its epochs.

    Solving the normal equations, scoring, and starting DVC and Python are not included (docs/studies.md).
    """
    crop = ImageSize(params.prepare.crop, params.prepare.crop)
    shapes = {
        source: feature_shapes(source.backbone, params.backbone_params(source.backbone), (source.layer,), crop)[
            source.layer
        ]
        for source in params.sources
    }
    inverter = Inverter(Blueprint.of(params, shapes, crop)).to(device)
    seconds = 0.0
    if inverter.linear is not None:
        rows = images.train * params.prepare.views + images.validation
        seconds += _readout_seconds(inverter, crop) * rows
    if inverter.decoder is not None:
        protocol = params.recipe
        steps = math.ceil(images.train / protocol.batch_size) * protocol.epochs
        seconds += _step_seconds(inverter, params, crop) * steps
    return seconds


def _noise(batch: int, inverter: Inverter) -> Inputs[torch.Tensor]:
    """Noise in the shapes of the inverter's inputs."""
    return inverter.blueprint.inputs.map(lambda shape: torch.randn(batch, *shape, device=inverter.device))


@torch.no_grad()
def _readout_seconds(inverter: Inverter, crop: ImageSize) -> float:
    """Seconds of the read-out's sums for one row."""
    linear = inverter.linear
    assert linear is not None
    equations = NormalEquations(linear.parts, linear.ratio, inverter.device)
    inputs, image = _noise(1, inverter), torch.rand(1, 3, crop.height, crop.width)
    start = time.perf_counter()
    equations.update(inverter.stack(inverter.standardised(inputs)), image.to(inverter.device))
    _wait(inverter.device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class _NoiseFeed:
    """A feed with one training batch of noise per epoch."""

    batch: _NoiseBatch
    waited = 0.0

    def training_images(self) -> int:
        return len(self.batch.targets)

    def training(self, epoch: int) -> Iterator[_NoiseBatch]:
        yield self.batch

    def validation(self) -> Iterator[_NoiseBatch]:
        yield self.batch


@dataclass(frozen=True)
class _NoiseBatch:
    inputs: Inputs[torch.Tensor]
    targets: torch.Tensor


def _step_seconds(inverter: Inverter, params: Params, crop: ImageSize) -> float:
    """Seconds of the fitter's own step; the second one is timed."""
    protocol, device = params.recipe, inverter.device
    loss = Loss(params.loss_terms, params).to(device)
    fitter = build_fitter(inverter, loss, params)
    target = torch.rand(protocol.batch_size, 3, crop.height, crop.width, device=device)
    feed = _NoiseFeed(_NoiseBatch(_noise(protocol.batch_size, inverter), target))
    fitter.train_epoch(feed, lambda images: None)
    _wait(device)
    start = time.perf_counter()
    fitter.train_epoch(feed, lambda images: None)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

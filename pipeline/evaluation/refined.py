"""What the layer holds: the decoder's images of the test split, refined through the known network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.params import Params
from pipeline.core.progress import progress
from pipeline.core.sources import ImageSize
from pipeline.evaluation.pictures import ERROR_GAIN, Picture, error_picture, sheet, to_picture
from pipeline.evaluation.scoring import Columns
from pipeline.evaluation.subject import Subject
from pipeline.loading.loader import Batch, CachedFeatures
from pipeline.loading.sampler import batched, spread
from pipeline.metrics.scores import capped_psnr, score
from pipeline.models.common.prior import load_prior
from pipeline.refinement.base import Refiner, Step, build_refiner
from pipeline.refinement.examples import SplitExamples
from pipeline.refinement.misleading import VALIDATION_IMAGES, misleading
from pipeline.stores.prepared import PreparedData

TITLES = ("decoder", "refined")


@dataclass(frozen=True)
class Refinement:
    """Scores of refined test images, and how they came about.

    positions: (n,) of the refined among all test images. columns: metrics and agreement of features, (n,) each.
    psnr, feature_error: (n, evaluations), after each evaluation of the network. warning: of the validation images.
    """

    positions: NDArray[np.int64]
    columns: Columns
    psnr: NDArray[np.float64]
    feature_error: NDArray[np.float64]
    figure: Picture
    warning: str | None


@dataclass
class _Record:
    """What is kept of refined batches."""

    psnr: list[Tensor] = field(default_factory=list)  # (B, evaluations)
    feature_error: list[Tensor] = field(default_factory=list)
    scores: list[dict[str, Tensor]] = field(default_factory=list)  # (B,) each

    def trajectory(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return torch.cat(self.psnr).cpu().numpy(), torch.cat(self.feature_error).cpu().numpy()

    def columns(self) -> Columns:
        return {name: torch.cat([each[name] for each in self.scores]).cpu().numpy() for name in self.scores[0]}


def learned_refiner(
    params: Params, data: PreparedData, cached: CachedFeatures, subject: Subject, models: Path
) -> Refiner:
    """The refiner that `evaluate.refine` names, which has seen training and validation images.

    Raises:
        DataError: the image prior in `models`, which `map` needs, is missing or of other data.
    """
    assert subject.networks is not None, "open_subject insists on the network where images are to be refined"
    settings, (source,) = params.evaluate, subject.inverter.sources
    layer = subject.networks.known_layer(source, ImageSize(data.crop, data.crop))
    refiner = build_refiner(settings.refine, params.refiners[settings.refine], layer, settings.refine_budget)
    prior = partial(load_prior, models, data, "train again: python -m stages train")
    refiner.learn(SplitExamples(data, cached, settings.batch_size, prior))
    return refiner


def refine(
    refiner: Refiner,
    params: Params,
    data: PreparedData,
    cached: CachedFeatures,
    subject: Subject,
    rows: NDArray[np.int64],
) -> Refinement:
    """Refine, by a refiner that has learned, `evaluate.refine_images` of the test `rows`, spread evenly over them."""
    settings = params.evaluate
    held_out = data.rows("validation")
    batches = cached.batches(batched(held_out[spread(len(held_out), VALIDATION_IMAGES)], settings.batch_size))
    warning = misleading(settings.refine, "evaluate", refiner.advice, batches, partial(_attempt, refiner, subject))
    positions = np.array(spread(len(rows), settings.refine_images or len(rows)))
    shown = {int(positions[index]) for index in spread(len(positions), settings.strips)}
    record, strips = _Record(), _Strips(data, [int(rows[position]) for position in sorted(shown)])
    with progress("refine", len(positions), "images") as advance:
        for batch in cached.batches(batched(rows[positions], settings.batch_size)):
            start, images = _refine_batch(refiner, subject, batch, record)
            strips.add(batch, start, images)
            advance(len(batch.rows))
    return Refinement(positions, record.columns(), *record.trajectory(), strips.sheet(), warning)


def describe(params: Params, refinement: Refinement) -> dict[str, Any]:
    """For protocol.json: how the images were refined."""
    name = params.evaluate.refine
    return {
        "refiner": name,
        "options": params.refiners[name],
        "budget": params.evaluate.refine_budget,
        "images": len(refinement.positions),
        "warning": refinement.warning,
    }


def trajectory_tables(refinement: Refinement, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Means over the images for each evaluation; and all of them, one line for an image and an evaluation."""
    images, evaluations = refinement.psnr.shape
    number = np.arange(1, evaluations + 1)
    mean = {"psnr": refinement.psnr.mean(0), "feature_error": refinement.feature_error.mean(0)}
    every = {"psnr": refinement.psnr.ravel(), "feature_error": refinement.feature_error.ravel()}
    ids = np.repeat([names[position] for position in refinement.positions], evaluations)
    return {"evaluation": number, **mean}, {"image": ids, "evaluation": np.tile(number, images), **every}


def _refine_batch(refiner: Refiner, subject: Subject, batch: Batch, record: _Record) -> tuple[Tensor, Tensor]:
    """Images before and after, (B, 3, H, W) in [0, 1]; their scores and paths go into `record`."""
    start, steps = _attempt(refiner, subject, batch)
    scores, errors = [], []
    for step in steps:
        scores.append(capped_psnr(step.images, batch.targets))
        errors.append(step.feature_error)
    record.psnr.append(torch.stack(scores, dim=1))
    record.feature_error.append(torch.stack(errors, dim=1))
    agreement = subject.compare(step.images, batch.inputs)
    gain = scores[-1] - capped_psnr(start, batch.targets)
    record.scores.append(score(step.images, batch.targets, subject.perceptual) | agreement | {"gain": gain})
    return start, step.images


def _attempt(refiner: Refiner, subject: Subject, batch: Batch) -> tuple[Tensor, Iterable[Step]]:
    """The decoder's images, and the steps of the refiner that starts from them."""
    (features,) = batch.inputs.features
    with torch.no_grad():
        start = subject.inverter(batch.inputs)
    return start, refiner.refine(features, start)


class _Strips:
    """Original, decoder, refined and error of a few rows."""

    def __init__(self, data: PreparedData, rows: Iterable[int]) -> None:
        self._data, self._wanted = data, set(rows)
        self._tiles: list[list[Picture]] = []
        self._captions: list[list[str]] = []

    def add(self, batch: Batch, start: Tensor, refined: Tensor) -> None:
        scores = [capped_psnr(images, batch.targets).tolist() for images in (start, refined)]
        for place, row in enumerate(batch.rows.tolist()):
            if row not in self._wanted:
                continue
            target = batch.targets[place]
            pictures = [to_picture(images[place]) for images in (batch.targets, start, refined)]
            self._tiles.append([*pictures, error_picture(refined[place], target)])
            name = self._data.image_ids[self._data.image[row]]
            texts = [f"{title} {values[place]:.2f} dB" for title, values in zip(TITLES, scores, strict=True)]
            self._captions.append([name, *texts, f"error × {ERROR_GAIN}"])

    def sheet(self) -> Picture:
        return sheet(self._tiles, self._captions)

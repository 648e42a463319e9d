"""Refinement of the decoder's test images through the known network: a lower bound on what the layer holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Refinement:
    """Scores of refined test images, and their course.

    Attributes:
        positions: (n,) of the refined images among all test images.
        columns: metrics and agreement of features, (n,) each.
        psnr, feature_error: (n, evaluations), after each evaluation of the network.
        figure: original, decoder, refined and error of some images.
        warning: from the validation images, or None.
    """

    positions: NDArray[np.int64]
    columns: Columns
    psnr: NDArray[np.float64]
    feature_error: NDArray[np.float64]
    figure: Picture
    warning: str | None


def learned_refiner(
    params: Params, data: PreparedData, cached: CachedFeatures, subject: Subject, models: Path
) -> Refiner:
    """The refiner that `evaluate.refine` names, after it has learned from training and validation images.

    Raises:
        DataError: the image prior in `models`, which `map` needs, is missing or of other data.
    """
    assert subject.networks is not None, "open_subject requires the network if images are to be refined"
    settings, (source,) = params.evaluate, subject.inverter.sources
    layer = subject.networks.known_layer(source, ImageSize(data.crop, data.crop))
    refiner = build_refiner(settings.refine, params.refiner_options(settings.refine), layer, settings.refine_budget)
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
    """Refine `evaluate.refine_images` of the test `rows`, spread evenly, by a refiner that has learned."""
    settings = params.evaluate
    held_out = data.rows("validation")
    batches = cached.batches(batched(held_out[spread(len(held_out), VALIDATION_IMAGES)], settings.batch_size))
    warning = misleading(settings.refine, "evaluate", refiner.advice, batches, partial(_attempt, refiner, subject))
    positions = np.array(spread(len(rows), settings.refine_images or len(rows)))
    shown = {int(rows[positions[index]]) for index in spread(len(positions), settings.strips)}
    psnr, feature_error, columns = [], [], []  # of each batch: (B, evaluations) twice, (B,) of each column
    tiles: list[list[Picture]] = []
    captions: list[list[str]] = []
    with progress("refine", len(positions), "images") as advance:
        for batch in cached.batches(batched(rows[positions], settings.batch_size)):
            start, steps = _attempt(refiner, subject, batch)
            scores, errors = [], []
            for step in steps:
                scores.append(capped_psnr(step.images, batch.targets))
                errors.append(step.feature_error)
            before, refined = capped_psnr(start, batch.targets), step.images
            psnr.append(torch.stack(scores, dim=1))
            feature_error.append(torch.stack(errors, dim=1))
            own = score(refined, batch.targets, subject.perceptual, subject.judge)
            columns.append(own | subject.compare(refined, batch.inputs) | {"gain": scores[-1] - before})
            for place, row in enumerate(batch.rows.tolist()):
                if row in shown:
                    pictures = [to_picture(images[place]) for images in (batch.targets, start, refined)]
                    tiles.append([*pictures, error_picture(refined[place], batch.targets[place])])
                    texts = [f"decoder {before[place]:.2f} dB", f"refined {scores[-1][place]:.2f} dB"]
                    captions.append([data.image_ids[data.image[row]], *texts, f"error × {ERROR_GAIN}"])
            advance(len(batch.rows))
    return Refinement(
        positions,
        {name: torch.cat([each[name] for each in columns]).cpu().numpy() for name in columns[0]},
        torch.cat(psnr).cpu().numpy(),
        torch.cat(feature_error).cpu().numpy(),
        sheet(tiles, captions),
        warning,
    )


def describe(params: Params, refinement: Refinement) -> dict[str, Any]:
    """The settings of the refinement, for protocol.json."""
    name = params.evaluate.refine
    return {
        "refiner": name,
        "options": params.refiner_options(name),
        "budget": params.evaluate.refine_budget,
        "images": len(refinement.positions),
        "warning": refinement.warning,
    }


def trajectory_tables(refinement: Refinement, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two tables: means over the images for each evaluation, and a row for each image and evaluation."""
    images, evaluations = refinement.psnr.shape
    number = np.arange(1, evaluations + 1)
    mean = {"psnr": refinement.psnr.mean(0), "feature_error": refinement.feature_error.mean(0)}
    every = {"psnr": refinement.psnr.ravel(), "feature_error": refinement.feature_error.ravel()}
    ids = np.repeat([names[position] for position in refinement.positions], evaluations)
    return {"evaluation": number, **mean}, {"image": ids, "evaluation": np.tile(number, images), **every}


def _attempt(refiner: Refiner, subject: Subject, batch: Batch) -> tuple[Tensor, Iterable[Step]]:
    """The decoder's images, and the steps of the refiner that starts from them."""
    (features,) = batch.inputs.features
    with torch.no_grad():
        start = subject.inverter(batch.inputs)
    return start, refiner.refine(features, start)

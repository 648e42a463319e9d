"""The evaluation from start to end: metrics.json, protocol.json, per_image.csv, the data of the plots, pictures."""

from __future__ import annotations

import hashlib
import shutil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import DataError
from pipeline.core.params import NONE, Params
from pipeline.core.paths import Paths
from pipeline.core.progress import progress
from pipeline.core.runtime import seed_everything
from pipeline.evaluation.baselines import mean_colour
from pipeline.evaluation.conventions import identity
from pipeline.evaluation.gallery import write_gallery
from pipeline.evaluation.pictures import require_folder
from pipeline.evaluation.protocol import describe
from pipeline.evaluation.records import summary, write_json, write_tables
from pipeline.evaluation.refined import describe as describe_refinement
from pipeline.evaluation.refined import learned_refiner, refine
from pipeline.evaluation.scoring import References, Tally
from pipeline.evaluation.subject import Subject, open_subject
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import batched
from pipeline.stores.prepared import PreparedData

METRICS = "metrics.json"
OWN_FOLDERS = ("plots", "reconstructions")  # below the output; nothing else is written there
COLOUR_IMAGES = 1000  # training images behind the mean colour; more would not change it


def evaluate(params: Params, data: PreparedData, paths: Paths, device: torch.device) -> dict[str, Any]:
    """Score the model in `paths.models` on the test split of `data`; write to `paths.metrics`, metrics.json last.

    Memory grows by only a few numbers for each image.

    Returns:
        The content of metrics.json.

    Raises:
        CheckpointError: the model is missing, or was trained on other features.
        StoreError: features are missing, stale, or made with other weights.
        DataError: there are no test images, reconstructions look like BGR, a needed prior is missing, or
            `paths.metrics` is a file.
        WeightsError: images are to be refined, and the network's weights are missing here.
    """
    output = paths.metrics
    seed_everything(params.seed)
    require_folder(output, "--metrics")
    rows = data.rows("test")
    if not len(rows):
        raise DataError(f"{data.root} has no test images; give the data set a test split and run: dvc repro")
    subject = open_subject(params, data, paths, device)
    tally = Tally(_references(data, subject), len(rows), subject.perceptual, subject.judge)
    with CachedFeatures(data, subject.stores, device, resident="never") as cached:
        refiner = None
        if params.evaluate.refine != NONE:  # before the scores, because learning may fail
            refiner = learned_refiner(params, data, cached, subject, paths.models)
        pixels = _score(subject, tally, data, cached, rows, params.evaluate.batch_size)
        columns = tally.columns()
        refinement = None if refiner is None else refine(refiner, params, data, cached, subject, rows)
        # remove earlier pictures and curves, and first the scores, so that a kill leaves no old scores beside new
        # pictures; files are removed, never overwritten, because they may be links into DVC's cache
        (output / METRICS).unlink(missing_ok=True)
        for name in OWN_FOLDERS:
            if (output / name).is_dir():
                shutil.rmtree(output / name)
        samples = write_gallery(params.evaluate, data, cached, subject, rows, columns["psnr"], output)
    images = data.image[rows]
    names, photographs = ([ids[image] for image in images] for ids in (data.image_ids, data.photographs))
    protocol = describe(params, data, subject, photographs, pixels, device) | {"reconstructions": samples}
    if refinement is not None:
        protocol["refinement"] = describe_refinement(params, refinement)
    metrics = summary(params, subject, columns, photographs, data.crop, refinement) | {"protocol": identity(protocol)}
    write_tables(output, names, photographs, columns, tally.energies(), refinement)
    write_json(output / "protocol.json", protocol)
    write_json(output / METRICS, metrics)
    return metrics


def training_colour(data: PreparedData) -> Tensor:
    """Mean RGB in [0, 1] of the training images, (3,)."""
    train = data.rows("train")
    images, first = np.unique(data.image[train], return_index=True)
    chosen = train[first[:: max(1, len(images) // COLOUR_IMAGES)]]
    return mean_colour(data.crops(part) for part in batched(chosen, 64))


def _references(data: PreparedData, subject: Subject) -> References:
    return References(
        colour=training_colour(data),
        grid=subject.inverter.grid,
        feature_bytes=subject.feature_bytes,
    )


@torch.inference_mode()
def _score(
    subject: Subject,
    tally: Tally,
    data: PreparedData,
    cached: CachedFeatures,
    rows: NDArray[np.int64],
    batch_size: int,
) -> str:
    """Stream the test split through the model into `tally`; returns the SHA-256 of the photographs' pixels."""
    digest = hashlib.sha256()
    with progress("evaluate", len(rows), "images") as advance:
        for batch in cached.batches(batched(rows, batch_size)):
            crops = data.crops(batch.rows)
            digest.update(crops.data)
            predictions = subject.inverter(batch.inputs)
            further = subject.further_columns(batch.inputs, predictions)
            tally.add(predictions, batch.targets, crops, subject.floors(batch.inputs), further)
            advance(len(batch.rows))
    return digest.hexdigest()

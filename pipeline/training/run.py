"""Train an inverter on cached features: the read-out in closed form, the decoder by gradient descent."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.core.code import DECODERS, FUSIONS, digest
from pipeline.core.errors import PipelineError, ShapeError, TrainingError
from pipeline.core.files import whole_file, write_whole
from pipeline.core.locks import locked
from pipeline.core.params import LINEAR, NONE, Params
from pipeline.core.paths import LEARNED, LINEAR_FOLDER, Paths
from pipeline.core.progress import counted
from pipeline.core.runtime import seed_everything
from pipeline.core.sources import ImageSize, Inputs
from pipeline.loading.inputs import first_stage_facts, open_inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import SplitFeed
from pipeline.models.common.checkpoint import (
    DESCRIPTION,
    copy_first_stage,
    load_model,
    require_finite,
    require_first_stage,
    save_model,
)
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.models.common.prior import FILE as PRIOR
from pipeline.models.common.prior import load_prior
from pipeline.stores.base import FeatureStore
from pipeline.stores.prepared import PreparedData
from pipeline.training.fabric import build_fabric, fabric_precision
from pipeline.training.fitter import Feed, Fitter, Report, load_state, save_state, validate
from pipeline.training.losses import Loss
from pipeline.training.readout import load_readout, readout_state, solve_readout

SPEED = ("samples_per_second", "waiting_share")
RESCUED = "best"  # folder, within unfinished work, of the best epoch's model when training cannot continue


def train(params: Params, data: PreparedData, paths: Paths, device: torch.device) -> dict[str, Any]:
    """Train the inverter that `params` describes and save it in `paths.models`.

    The model folder also gets the image prior, for refinement, and in two stages the first stage's read-out and
    refiner. `paths.curves` and, beside it, training_speed.csv get a row after each epoch, so that a run that ends in an
    error leaves its curves. The speeds have a file of their own because they differ from run to run.

    A killed run continues after its last finished epoch. A finished run is not repeated if its code is the same and its
    output unchanged.

    Returns:
        The model's description.

    Raises:
        DataError: the image prior is missing, or of other data.
        StoreError: a feature store or the first stage is missing, stale or damaged.
        WeightsError: the loss needs weights that are missing or damaged.
        ShapeError: the decoder cannot work on these features, or not on a last batch of one image.
        LockedError: another process is training the same model in `paths.work`.
        TrainingError: the loss is not finite. If an epoch was better than the start, the message names the folder of
            its model.
    """
    seed_everything(params.seed)
    load_prior(paths.prior, data)  # raises if it is of other photographs
    stores = open_inputs(paths, sorted(params.sources, key=params.depth), params, data)
    if params.two_stage.refine != NONE:
        require_first_stage(paths.first_stage, first_stage_facts(params, *stores.features))
    inverter = build_inverter(params, data, stores).to(device)
    loss = Loss(params.loss_terms, params).to(device)
    description = _describe(params, data, stores, inverter, loss)
    workspace = paths.work / "train" / _work_key(params, description, device)
    finished = paths.work / "finished" / workspace.name  # holds a digest of what was written
    if finished.is_file() and finished.read_text() == _digest_of(paths):
        print(
            f"train {params.decoder}: nothing left to do, {paths.models} was finished before; delete it to train again",
            file=sys.stderr,
        )
        return load_model(paths.models)[1]
    with (
        locked(workspace, "training the same model"),
        CachedFeatures(data, stores, device, params.train.resident) as cached,
    ):
        feed = SplitFeed(data, cached, params.recipe.batch_size, params.seed)
        check_batches(inverter, params, feed.training_images())
        floor = None
        if inverter.linear is not None:
            solved = workspace / "linear.pt"  # by a run that was killed
            if not solved.is_file():
                save_state(readout_state(solve_readout(inverter, data, cached)), solved)
            state = load_state(solved, device)
            load_readout(inverter, state)
            description["ridge"] = state["summary"]
            description |= _size(inverter)  # a grid that is read apart came with the solution
            if inverter.decoder is not None and not inverter.blueprint.two_stage:
                floor = _readout_alone(inverter)
        save = partial(_save, inverter=inverter, floor=floor, description=description, paths=paths)
        report = partial(_write_curves, paths.curves)
        if inverter.decoder is None:
            scores = validate(inverter, loss, feed.validation())  # the only point of a read-out's curve
            report([{"epoch": 0, **{f"validation_{name}": value for name, value in scores.items()}}])
        else:
            _fit_decoder(inverter, loss, params, feed, workspace, description, save, report)
        save(paths.models)
        shutil.rmtree(workspace, ignore_errors=True)
        write_whole(finished, _digest_of(paths).encode())
    return description


def _digest_of(paths: Paths) -> str:
    """SHA-256 over the names and contents of the model's files, the curves and the image prior."""
    found = hashlib.sha256()
    files = [file for file in sorted(paths.models.rglob("*")) if file.is_file()]
    for file in (*files, paths.curves, paths.prior / PRIOR):
        content = file.read_bytes() if file.is_file() else b""
        found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _save(
    output: Path,
    inverter: Inverter,
    floor: Inverter | None,
    description: dict[str, Any],
    paths: Paths,
) -> None:
    """Save the fitted inverter with its floor, the image prior and, in two stages, the first stage.

    Raises:
        CheckpointError: a weight is not finite; `output` then stays unchanged.
    """
    for each in (inverter, floor):
        if each is not None:
            require_finite(output, each.state_dict())
    # files of another model are removed, never overwritten, because they may be links into DVC's cache
    output.mkdir(parents=True, exist_ok=True)
    (output / DESCRIPTION).unlink(missing_ok=True)  # no description, no model
    shutil.rmtree(output / LINEAR_FOLDER, ignore_errors=True)
    for name in (PRIOR, LEARNED):
        (output / name).unlink(missing_ok=True)
    shutil.copyfile(paths.prior / PRIOR, output / PRIOR)
    if inverter.blueprint.two_stage:
        copy_first_stage(paths.first_stage, output)
    elif floor is not None:
        save_model(output / LINEAR_FOLDER, floor.state_dict(), description | {"blueprint": floor.blueprint.plain()})
    save_model(output, inverter.state_dict(), description)


def build_inverter(params: Params, data: PreparedData, stores: Inputs[FeatureStore]) -> Inverter:
    """The untrained inverter that `params` describes, on the CPU, with the statistics of `stores`.

    Raises:
        ShapeError: the decoder cannot work on these features.
    """
    shapes = {store.source: store.shape for store in stores.features}
    try:
        inverter = Inverter(Blueprint.of(params, shapes, ImageSize(data.crop, data.crop)))
    except ShapeError as error:
        raise ShapeError(f"decoder {params.decoder} on {' + '.join(map(str, shapes))}: {error}") from None
    inverter.fit_statistics([(torch.from_numpy(store.mean), torch.from_numpy(store.std)) for store in stores])
    return inverter


def build_fitter(inverter: Inverter, loss: Loss, params: Params) -> Fitter:
    """The fitter of `inverter`'s decoder; makes `inverter` channels-last, which is faster (docs/training.md)."""
    inverter.to(memory_format=torch.channels_last)
    fabric = build_fabric(params.train.precision, inverter.device)
    return Fitter(inverter, inverter.readout, loss, params.recipe, fabric)


def check_batches(inverter: Inverter, params: Params, images: int) -> None:
    """Raise ShapeError if the last batch has one image and batch normalisation refuses it.

    Batch normalisation refuses one image with a single position. A trial run tells, because decoders differ.
    """
    size = params.recipe.batch_size
    if inverter.decoder is None or (images % size or size) > 1:
        return
    try:
        with torch.no_grad():
            zeros = inverter.blueprint.inputs.map(lambda shape: torch.zeros(1, *shape, device=inverter.device))
            deepcopy(inverter).train()(zeros)
    except PipelineError:
        raise
    except ValueError as error:  # raised by torch's batch normalisation
        raise ShapeError(
            f"{counted(images, 'training image')} in batches of {size} leave a batch of one, on which decoder "
            f"{params.decoder} cannot be trained here ({error}); change protocols.{params.train.protocol}.batch_size"
        ) from None


def _describe(
    params: Params, data: PreparedData, stores: Inputs[FeatureStore], inverter: Inverter, loss: Loss
) -> dict[str, Any]:
    """Everything that determines the fitted weights; saved with the model, and part of the key of unfinished work."""
    return {
        **_size(inverter),
        "stores": {name: store.fingerprint for name, store in zip(inverter.inputs, stores, strict=True)},
        "stored": {
            str(store.source): {"dtype": store.layout.dtype, "precision": store.manifest.facts["precision"]}
            for store in stores.features
        },
        "backbones": {store.source.backbone: store.manifest.facts["backbone"] for store in stores.features},
        "data": data.fingerprint,
        "prepare": data.manifest["prepare"],
        **({"first_stage": first_stage_facts(params, *stores.features)} if inverter.blueprint.two_stage else {}),
        "seed": params.seed,
        "loss": {params.loss: params.loss_terms},
        **({"loss_weights": loss.weights_sha256} if loss.weights_sha256 else {}),
        **({"loss_networks": loss.networks} if loss.networks else {}),
        "train": params.train.model_dump(exclude={"resident"}),
        "protocol": params.recipe.model_dump(),
    }


def _size(inverter: Inverter) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in inverter.parameters())
    return {"blueprint": inverter.blueprint.plain(), "parameters": parameters}


def _work_key(params: Params, description: dict[str, Any], device: torch.device) -> str:
    """The key of unfinished work, which only the same code, kind of device and model description may continue."""
    code = digest(__name__, chosen={DECODERS: params.decoder, FUSIONS: params.fusion})
    facts = [description, fabric_precision(params.train.precision, device), device.type, code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _readout_alone(inverter: Inverter) -> Inverter:
    """A copy of the read-out before gradient descent changes it: the floor `linear` of `evaluate`."""
    blueprint = inverter.blueprint
    assert inverter.linear is not None
    assert blueprint.linear is not None
    alone = Inverter(replace(blueprint, decoder=LINEAR, decoder_options=blueprint.linear, linear=None))
    assert alone.linear is not None
    alone.standardise.load_state_dict(inverter.standardise.state_dict())
    alone.linear.load_state_dict(inverter.linear.state_dict())
    alone.apart.load_state_dict(inverter.apart.state_dict())
    return alone


def _fit_decoder(
    inverter: Inverter,
    loss: Loss,
    params: Params,
    feed: Feed,
    workspace: Path,
    description: dict[str, Any],
    save: Callable[[Path], None],
    report: Report,
) -> None:
    """Train the decoder; leave the best epoch's weights in `inverter` and its number (0: the start) in `description`.

    Raises:
        TrainingError: the loss is not finite. The best epoch's model, if there is one, is saved and named.
    """
    fitter = build_fitter(inverter, loss, params)
    try:
        fitter.run(feed, workspace / "state.pt", f"train {params.decoder}", report)
    except TrainingError as error:
        description["best_epoch"] = fitter.progress.best_epoch
        if not fitter.progress.best_epoch:
            raise
        # saved, because the remedy is to change settings, and other settings do not continue this work
        inverter.load_state_dict(fitter.best)
        save(workspace / RESCUED)
        kept = f"the model of epoch {fitter.progress.best_epoch}, the best so far, is in {workspace / RESCUED}"
        raise TrainingError(f"{error} ({kept})") from None
    description["best_epoch"] = fitter.progress.best_epoch
    inverter.load_state_dict(fitter.best)


def _write_curves(path: Path, history: list[dict[str, float]]) -> None:
    """Write the CSV files by the standard library, because importing pandas would take a fifth of the start-up."""
    names = dict.fromkeys(name for row in history for name in row)
    curves, speed = ([name for name in names if (name in SPEED) == fast] for fast in (False, True))
    for place, columns in ((path, curves), (path.with_name("training_speed.csv"), ["epoch", *speed])):
        with whole_file(place) as part, part.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([format(row[name], ".6g") for name in columns] for row in history)

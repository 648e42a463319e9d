"""Fit an inverter on cached features: the linear part in closed form, the decoder by gradient descent."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline.core.code import DECODERS, FUSIONS, digest
from pipeline.core.errors import ShapeError, TrainingError
from pipeline.core.files import whole_file
from pipeline.core.locks import locked
from pipeline.core.params import NONE, Params
from pipeline.core.runtime import seed_everything
from pipeline.core.sources import ImageSize, Source
from pipeline.loading.inputs import first_stage_facts, open_inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import SplitFeed
from pipeline.models.common.checkpoint import (
    DESCRIPTION,
    LEARNED,
    LINEAR_FOLDER,
    copy_first_stage,
    require_finite,
    require_first_stage,
    save_model,
)
from pipeline.models.common.inverter import LINEAR, RGB, Blueprint, Inverter
from pipeline.models.common.prior import FILE as PRIOR
from pipeline.models.common.prior import load_prior
from pipeline.stores.base import FeatureStore
from pipeline.stores.prepared import PreparedData
from pipeline.training.fabric import build_fabric, fabric_precision
from pipeline.training.fitter import Feed, Fitter, Report, load_state, save_state, validate
from pipeline.training.losses import Loss
from pipeline.training.readout import linear_state, load_linear, solve_linear

SPEED = ("samples_per_second", "waiting_share")
RESCUED = "best"  # folder, within unfinished work, of the best epoch's model when training cannot go on


def train(
    params: Params,
    data: PreparedData,
    features: Path,
    first_stage: Path,
    prior: Path,
    output: Path,
    curves: Path,
    work: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Fit the inverter `params` asks for and save it in `output`; `curves` gets a CSV row for each epoch.

    What its reconstructions may be refined with is saved beside it: the image prior in `prior` and, for a decoder of
    two stages, what the first stage learned (`first_stage`).

    Beside `curves`, training_speed.csv says how fast each epoch was: a file of its own, because it differs from
    run to run and nothing else here does.

    Both are written after each epoch, so that a run that ends in an error leaves its curves.

    Returns the model's description. A run that was killed continues at its last finished epoch.

    Raises:
        DataError: the image prior is missing, or of other data.
        StoreError: a feature store or the first stage is missing, stale or damaged.
        WeightsError: the loss needs weights that are missing or damaged.
        ShapeError: the decoder cannot work on these features, or not on a batch of one image that is left over.
        LockedError: another process is training the same model in `work`.
        TrainingError: the loss is not finite. The message names the folder where the best epoch's model was saved, in
            the form of `output`, if there was such an epoch.
    """
    seed_everything(params.seed)
    load_prior(prior, data)  # proves that it is of these photographs
    sources = sorted(params.sources)
    stores = open_inputs(features, first_stage, sources, params, data)
    if params.two_stage.refine != NONE:
        require_first_stage(first_stage, first_stage_facts(params, stores[0]))
    inverter = build_inverter(params, data, sources, stores).to(device)
    loss = Loss(params.losses[params.loss]).to(device)
    description = _describe(params, data, stores, inverter, loss)
    workspace = work / "train" / _work_key(params, description, device)
    with (
        locked(workspace, "training the same model"),
        CachedFeatures(data, stores, device, params.train.resident) as cached,
    ):
        feed = SplitFeed(data, cached, params.protocols[params.train.protocol].batch_size, params.seed)
        check_batches(inverter, params, feed.training_images())
        floor = None
        if inverter.linear is not None:
            description["ridge"] = _fit_linear(inverter, data, cached, workspace / "linear.pt")
            description |= _size(inverter)  # a grid that is read apart came with the solution
            if inverter.decoder is not None and not inverter.blueprint.two_stage:
                floor = _linear_alone(inverter)
        save = partial(
            _save, inverter=inverter, floor=floor, description=description, prior=prior, first_stage=first_stage
        )
        report = partial(_write_curves, curves)
        if inverter.decoder is None:
            report([_validation_row(inverter, loss, feed)])
        else:
            _fit_decoder(inverter, loss, params, feed, workspace, description, save, report)
        save(output)
        shutil.rmtree(workspace, ignore_errors=True)
    return description


def _save(
    output: Path,
    inverter: Inverter,
    floor: Inverter | None,
    description: dict[str, Any],
    prior: Path,
    first_stage: Path,
) -> None:
    """The fitted inverter, and beside it what its reconstructions may be refined with and are compared with.

    Raises:
        CheckpointError: it is not finite; what `output` holds then stays.
    """
    for each in (inverter, floor):
        if each is not None:
            require_finite(output, each.state_dict())
    _clear(output)
    shutil.copyfile(prior / PRIOR, output / PRIOR)
    if inverter.blueprint.two_stage:
        copy_first_stage(first_stage, output)
    elif floor is not None:
        save_model(output / LINEAR_FOLDER, floor.state_dict(), description | {"blueprint": floor.blueprint.plain()})
    save_model(output, inverter.state_dict(), description)


def _clear(output: Path) -> None:
    """No part of another model stays. Removed, never overwritten: it may be a link into DVC's cache."""
    output.mkdir(parents=True, exist_ok=True)
    (output / DESCRIPTION).unlink(missing_ok=True)  # no description, no model
    shutil.rmtree(output / LINEAR_FOLDER, ignore_errors=True)
    for name in (PRIOR, LEARNED):
        (output / name).unlink(missing_ok=True)


def build_inverter(
    params: Params, data: PreparedData, sources: Sequence[Source], stores: Sequence[FeatureStore]
) -> Inverter:
    """The untrained inverter `params` asks for, on the CPU, standardising by the statistics of `stores`.

    Raises:
        ShapeError: the decoder cannot work on these features.
    """
    shapes = {source: store.shape for source, store in zip(sources, stores, strict=False)}  # refined images come last
    try:
        inverter = Inverter(Blueprint.of(params, shapes, ImageSize(data.crop, data.crop)))
    except ShapeError as error:
        raise ShapeError(f"decoder {params.decoder} on {' + '.join(map(str, sources))}: {error}") from None
    inverter.fit_statistics([(torch.from_numpy(store.mean), torch.from_numpy(store.std)) for store in stores])
    return inverter


def check_batches(inverter: Inverter, params: Params, images: int) -> None:
    """Raise ShapeError when the `images` for training leave a batch of one that batch normalisation cannot take.

    That is one whose features have a single position, too: known by trying, because fusions and decoders differ.
    """
    size = params.protocols[params.train.protocol].batch_size
    if inverter.decoder is None or (images % size or size) > 1:
        return
    shapes = [*inverter.blueprint.shapes, *[(RGB, *inverter.blueprint.image)] * inverter.blueprint.two_stage]
    try:
        with torch.no_grad():
            deepcopy(inverter).train()([torch.zeros(1, *shape, device=inverter.device) for shape in shapes])
    except ValueError as error:  # how torch's batch normalisation refuses
        raise ShapeError(
            f"{images} training images in batches of {size} leave a batch of one, on which decoder {params.decoder} "
            f"cannot be trained here ({error}); change protocols.{params.train.protocol}.batch_size"
        ) from None


def _describe(
    params: Params, data: PreparedData, stores: Sequence[FeatureStore], inverter: Inverter, loss: Loss
) -> dict[str, Any]:
    """Everything that determines the fitted weights: saved with the model, and the identity of unfinished work."""
    chosen = {
        "seed": params.seed,
        "loss": {params.loss: params.losses[params.loss]},
        **({"loss_weights": loss.weights_sha256} if loss.weights_sha256 else {}),
        "train": params.train.model_dump(exclude={"resident"}),
        "protocol": params.protocols[params.train.protocol].model_dump(),
    }
    return {
        **_size(inverter),
        "stores": {name: store.fingerprint for name, store in zip(inverter.inputs, stores, strict=True)},
        "stored": {
            str(source): {"dtype": store.layout.dtype, "precision": store.manifest.facts["precision"]}
            for source, store in zip(inverter.sources, stores[: len(inverter.sources)], strict=True)
        },
        "backbones": {
            store.source.backbone: store.manifest.facts["backbone"] for store in stores[: len(inverter.sources)]
        },
        "data": data.fingerprint,
        "prepare": data.manifest["prepare"],
        **({"first_stage": first_stage_facts(params, stores[0])} if inverter.blueprint.two_stage else {}),
        **chosen,
    }


def _size(inverter: Inverter) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in inverter.parameters())
    return {"blueprint": inverter.blueprint.plain(), "parameters": parameters}


def _work_key(params: Params, description: dict[str, Any], device: torch.device) -> str:
    """Unfinished work is continued only by the same code, on the same kind of device, towards the same model."""
    code = digest(__name__, chosen={DECODERS: params.decoder, FUSIONS: params.fusion})
    facts = [description, fabric_precision(params.train.precision, device), device.type, code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _fit_linear(inverter: Inverter, data: PreparedData, cached: CachedFeatures, saved: Path) -> dict[str, Any]:
    """Solve the linear part, or take over what a killed run had solved; a summary of it."""
    if saved.is_file():
        state = load_state(saved, inverter.device)
    else:
        state = linear_state(solve_linear(inverter, data, cached))
        save_state(state, saved)
    load_linear(inverter, state)
    return state["summary"]


def _linear_alone(inverter: Inverter) -> Inverter:
    """A copy of the linear part before gradient descent moves it: the floor that evaluate scores beside the decoder."""
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
    """Gradient descent; leaves the best epoch's weights in `inverter`, and its number in `description` (0: the start).

    `report` gets the history after each epoch.

    Raises:
        TrainingError: the loss is not finite. The best epoch, if there is one, is saved first and named.
    """
    protocol = params.protocols[params.train.protocol]
    fabric = build_fabric(params.train.precision, inverter.device)
    inverter.to(memory_format=torch.channels_last)  # faster: docs/training.md
    fitter = Fitter(inverter, inverter.closed_form, loss, protocol, fabric)
    try:
        fitter.run(feed, workspace / "state.pt", f"train {params.decoder}", report)
    except TrainingError as error:
        description["best_epoch"] = fitter.progress.best_epoch
        if not fitter.progress.best_epoch:
            raise
        # unfinished work is continued only under the same settings, and the remedy is to change them
        inverter.load_state_dict(fitter.best)
        save(workspace / RESCUED)
        kept = f"the model of epoch {fitter.progress.best_epoch}, the best so far, is in {workspace / RESCUED}"
        raise TrainingError(f"{error} ({kept})") from None
    description["best_epoch"] = fitter.progress.best_epoch
    inverter.load_state_dict(fitter.best)


def _validation_row(inverter: Inverter, loss: Loss, feed: Feed) -> dict[str, float]:
    """The one point on a closed-form model's curve."""
    scores = validate(inverter, loss, feed.validation())
    return {"epoch": 0, **{f"validation_{name}": value for name, value in scores.items()}}


def _write_curves(path: Path, history: list[dict[str, float]]) -> None:
    table = pd.DataFrame(history).set_index("epoch")
    speed = [column for column in SPEED if column in table]
    for place, columns in ((path, table.drop(columns=speed)), (path.with_name("training_speed.csv"), table[speed])):
        with whole_file(place) as part:
            columns.to_csv(part, float_format="%.6g")

"""The inverter to score with its features and networks, opened and checked against each other before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import CheckpointError, WeightsError
from pipeline.core.params import LINEAR, NONE, Params
from pipeline.core.paths import LINEAR_FOLDER, Paths
from pipeline.core.sources import Inputs
from pipeline.loading.inputs import open_inputs
from pipeline.metrics.alexnet import ALEXNET_FILE, lpips_available
from pipeline.metrics.perceptual import FeatureDistance, load_distance
from pipeline.metrics.similarity import Lpips, load_lpips
from pipeline.models.common.checkpoint import DESCRIPTION, load_model
from pipeline.models.common.inverter import Inverter, load_inverter
from pipeline.refinement.consistency import consistency, open_networks
from pipeline.refinement.networks import Networks
from pipeline.stores.base import FeatureStore
from pipeline.stores.prepared import PreparedData

WEIGHT = "weight_of_"  # column of a source's learned weight in the fusion
FIRST_STAGE = "first_stage"  # the refined image that a decoder of two stages receives


@dataclass(frozen=True)
class Subject:
    """A trained inverter, its features, and the networks that metrics need.

    `missing` gives the reason for each metric that cannot be computed here, which is null in metrics.json.
    """

    inverter: Inverter
    readout: Inverter | None
    description: Mapping[str, Any]
    stores: Inputs[FeatureStore]
    perceptual: Lpips | None
    judge: FeatureDistance | None  # of the metric `features`; None if params.yaml names no network
    networks: Networks | None
    missing: Mapping[str, str]

    def further_columns(self, inputs: Inputs[Tensor], predictions: Tensor) -> dict[str, Tensor]:
        """Per-image numbers that need networks or features: agreement of the features, learned source weights."""
        columns = {} if self.networks is None else self.compare(predictions, inputs)
        fusion = self.inverter.fusion
        weights = None if fusion is None else fusion.source_weights(self.inverter.standardised(inputs))
        if weights is not None:
            for source, weight in zip(self.inverter.sources, weights, strict=True):
                columns[f"{WEIGHT}{source}"] = weight.expand(len(predictions))
        return columns

    def compare(self, images: Tensor, inputs: Inputs[Tensor]) -> dict[str, Tensor]:
        """Agreement of the features of `images` with those in the inverter's inputs."""
        assert self.networks is not None, "open_subject requires the network if images are to be refined"
        return consistency(self.networks(images), inputs.features)

    def floors(self, inputs: Inputs[Tensor]) -> dict[str, Tensor]:
        """Floors that depend on the features, (B, 3, H, W) each: the read-out, and in two stages the first stage."""
        images = {} if self.readout is None else {LINEAR: self.readout(Inputs(inputs.features))}
        return images | ({} if inputs.image is None else {FIRST_STAGE: inputs.image.clamp(0, 1)})

    @property
    def distances(self) -> dict[str, Mapping[str, Any]]:
        """Networks and layers behind `features`: of the `loss` in training, of the `metric`, if they exist."""
        found = {"loss": self.description.get("loss_networks", {}).get("features")}
        found["metric"] = None if self.judge is None else self.judge.describe()
        return {name: network for name, network in found.items() if network is not None}

    @property
    def feature_bytes(self) -> int:
        """Bytes of one image's stored features before compression, including int8's two scales per channel."""
        return sum(store.layout.row_bytes for store in self.stores.features)

    @property
    def rounding(self) -> float | None:
        """The largest rounding error of a source over its layer's deviation; None if one was not measured."""
        shares = [store.manifest.rounding_share for store in self.stores.features]
        known = [share for share in shares if share is not None]
        return max(known) if len(known) == len(shares) else None


def open_subject(params: Params, data: PreparedData, paths: Paths, device: torch.device) -> Subject:
    """Load the model in `paths.models` and the stores of its inputs, made from `data`.

    Raises:
        CheckpointError: the model is missing, of other sources than `params` names, or trained on other features.
        StoreError: a store is missing or damaged, or was made with other parameters, weights or data.
        WeightsError: the weights of a network that refinement or `features` needs are missing.
    """
    models = paths.models
    inverter = load_inverter(models, device)
    description = load_model(models)[1]
    _check_sources(params, inverter, models)
    stores = open_inputs(paths, inverter.sources, params, data)
    for name, store in zip(inverter.inputs, stores, strict=True):
        if description["stores"][name] != store.fingerprint:
            raise CheckpointError(f"{models} was trained on other features than {store.path} holds; run: dvc repro")
    missing: dict[str, str] = {}
    perceptual = None
    if lpips_available() is None:
        perceptual = load_lpips().to(device)
    else:  # in words that are the same on every machine, because protocol.json's hash is in dvc.lock
        reason = f"AlexNet's {ALEXNET_FILE} is not in torchvision's cache; run `python -m stages weights lpips`"
        missing["lpips"] = reason
    return Subject(
        inverter=inverter,
        readout=_readout(models, description, device),
        description=description,
        stores=stores,
        perceptual=perceptual,
        judge=load_distance(judge, params).to(device) if (judge := params.distances.get("metric")) else None,
        networks=_networks(params, stores.features, device, missing),
        missing=missing,
    )


def _check_sources(params: Params, inverter: Inverter, models: Path) -> None:
    trained, asked = (" + ".join(map(str, sorted(sources))) for sources in (inverter.sources, params.sources))
    if trained != asked:
        raise CheckpointError(f"{models} holds a decoder of {trained}, params.yaml asks for {asked}; run: dvc repro")
    if inverter.blueprint.two_stage != (params.two_stage.refine != NONE):
        number = 2 if inverter.blueprint.two_stage else 1
        raise CheckpointError(
            f"{models} holds a decoder of {number} stages, params.yaml has two_stage.refine = "
            f"{params.two_stage.refine!r}; run: dvc repro"
        )


def _readout(models: Path, description: Mapping[str, Any], device: torch.device) -> Inverter | None:
    """The read-out beside the model, or None if it is missing or of another training."""
    if not (models / LINEAR_FOLDER / DESCRIPTION).is_file():
        return None
    beside = load_model(models / LINEAR_FOLDER)[1]
    of_sources = {name: description["stores"][name] for name in description["blueprint"]["sources"]}
    if beside.get("stores") != of_sources or beside.get("data") != description["data"]:
        return None
    return load_inverter(models / LINEAR_FOLDER, device)


def _networks(
    params: Params, stores: tuple[FeatureStore, ...], device: torch.device, missing: dict[str, str]
) -> Networks | None:
    try:
        return open_networks(params, stores, device)
    except WeightsError:  # the features may have been extracted on another machine
        if params.evaluate.refine != NONE:
            raise
        names = ", ".join(sorted({store.source.backbone for store in stores}))
        missing["consistency"] = (
            f"the weights of {names} are not on this machine; see `python -m stages weights --help`"
        )
        return None

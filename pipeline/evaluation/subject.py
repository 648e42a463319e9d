"""What is scored, and what is needed to score it: opened and checked against each other before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint import DESCRIPTION, load_model
from pipeline.errors import CheckpointError, WeightsError
from pipeline.evaluation.consistency import Reencoder
from pipeline.inverter import Inverter, load_inverter
from pipeline.params import Params
from pipeline.similarity import Lpips, load_lpips, lpips_available
from pipeline.stores import FeatureStore, open_store

LINEAR = "linear"  # folder below the model's, where train leaves the closed-form decoder it started from


@dataclass(frozen=True)
class Subject:
    """A trained inverter, its features, and the networks of the metrics that have one.

    `missing` says for each metric that cannot be computed here why; it is null in metrics.json.
    """

    inverter: Inverter
    linear: Inverter | None
    description: Mapping[str, Any]
    stores: tuple[FeatureStore, ...]
    perceptual: Lpips | None
    reencoder: Reencoder | None
    missing: Mapping[str, str]


def open_subject(params: Params, features: Path, models: Path, device: torch.device) -> Subject:
    """Load the model in `models` and the stores of its sources below `features`.

    Raises:
        CheckpointError: no model, or one of other sources than `params` names, or trained on other features.
        StoreError: a store is missing or damaged, or was written with other weights.
    """
    inverter = load_inverter(models, device)
    description = load_model(models)[1]
    _check_sources(params, inverter, models)
    stores = tuple(open_store(features / source.backbone / source.layer) for source in inverter.sources)
    _check_stores(description, inverter, stores, models)
    missing: dict[str, str] = {}
    return Subject(
        inverter=inverter,
        linear=_linear(models, device),
        description=description,
        stores=stores,
        perceptual=_perceptual(device, missing),
        reencoder=_reencoder(params, inverter, stores, device, missing),
        missing=missing,
    )


def _check_sources(params: Params, inverter: Inverter, models: Path) -> None:
    trained, asked = (" + ".join(map(str, sorted(sources))) for sources in (inverter.sources, params.sources))
    if trained != asked:
        raise CheckpointError(f"{models} holds a decoder of {trained}, params.yaml asks for {asked}; run: dvc repro")


def _check_stores(
    description: Mapping[str, Any], inverter: Inverter, stores: Sequence[FeatureStore], models: Path
) -> None:
    for source, store in zip(inverter.sources, stores, strict=True):
        if description["stores"][str(source)] != store.fingerprint:
            raise CheckpointError(f"{models} was trained on other features than {store.path} holds; run: dvc repro")


def _linear(models: Path, device: torch.device) -> Inverter | None:
    return load_inverter(models / LINEAR, device) if (models / LINEAR / DESCRIPTION).is_file() else None


def _perceptual(device: torch.device, missing: dict[str, str]) -> Lpips | None:
    reason = lpips_available()
    if reason is None:
        return load_lpips().to(device)
    missing["lpips"] = reason
    return None


def _reencoder(
    params: Params, inverter: Inverter, stores: Sequence[FeatureStore], device: torch.device, missing: dict[str, str]
) -> Reencoder | None:
    try:
        return Reencoder(params, inverter.sources, stores, device)
    except WeightsError as error:  # the features may have been extracted on another machine
        missing["consistency"] = str(error)
        return None

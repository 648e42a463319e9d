"""Open the stores of an experiment, checked against params.yaml and the prepared data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core.errors import StoreError
from pipeline.core.former import recorded_first_stage
from pipeline.core.params import NONE, Params
from pipeline.core.paths import Paths
from pipeline.core.sources import Inputs, Source
from pipeline.stores.base import FeatureStore
from pipeline.stores.files import Verify
from pipeline.stores.manifest import REFINED_FOLDER, differences, remedy
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

REFINED_IMAGES = Path(REFINED_FOLDER, "image")  # below the folder that stage `refine` writes


def open_features(
    root: Path, sources: Iterable[Source], params: Params, data: PreparedData, verify: Verify = "lazy"
) -> tuple[FeatureStore, ...]:
    """Open `root`/<backbone>/<layer> of each source.

    Raises:
        StoreError: a store is missing, unfinished or damaged, or was made with other parameters or other data; the
            message names the difference.
    """
    stores = []
    for source in sources:
        store = open_store(root / source.backbone / source.layer, expected_facts(source, params, data), verify)
        entry, found = params.backbone_params(source.backbone), store.manifest.facts["backbone"]["weights"]
        asked = {"imagenet": entry.tag, "path": Path(entry.weights).name}.get(found["kind"])
        if asked is not None and not _called(asked, **found):
            raise StoreError(
                f"{store.path} is stale: its weights are {found['detail']}, not {asked}; {remedy(store.path)}"
            )
        stores.append(store)
    return tuple(stores)


def open_inputs(
    paths: Paths,
    sources: Iterable[Source],
    params: Params,
    data: PreparedData,
    verify: Verify = "lazy",
) -> Inputs[FeatureStore]:
    """Open the stores of all inputs of the inverter: those of its sources and, in two stages, the refined images.

    Raises:
        StoreError: as `open_features`, or the refined images are missing, incomplete, or of another first stage.
    """
    stores = open_features(paths.features, sources, params, data, verify)
    if params.two_stage.refine == NONE:
        return Inputs(stores)
    (store,) = stores
    facts = expected_facts(store.source, params, data) | {"layer": REFINED_IMAGES.name, "precision": "fp32"}
    facts.pop("backbone")
    images = open_store(paths.first_stage / REFINED_IMAGES, facts, verify)
    expected = first_stage_facts(params, store)
    found = recorded_first_stage(images.manifest.facts["backbone"].get("refined", {}))
    if found != expected:
        denied = differences({"refined": expected}, {"refined": found}) or ["it was refined with more options"]
        raise StoreError(f"{images.path} is stale: {'; '.join(denied)}; {remedy(images.path)}")
    return Inputs((store,), images)


def first_stage_facts(params: Params, store: FeatureStore) -> dict[str, Any]:
    """The facts that determine the refined images of one source, as plain values."""
    chosen = params.two_stage
    return {
        "source": str(store.source),
        "features": store.fingerprint,
        "refiner": chosen.refine,
        "options": params.refiner_options(chosen.refine),
        "budget": chosen.budget,
        "start": params.linear_options,  # options of the read-out from which refining starts
        "dtype": store.dtype,
    }


def expected_facts(source: Source, params: Params, data: PreparedData) -> dict[str, Any]:
    """The facts of a store that follow from params.yaml and the prepared data, without loading the network."""
    entry, store = params.backbone_params(source.backbone), params.store
    weights: dict[str, str] = {"kind": entry.kind}
    if entry.kind == "random":
        weights["detail"] = f"seed {entry.seed}"
    described = entry.model_dump(include={"library", "model"}, exclude_none=True)  # only where the entry has them
    return {
        "backbone": {"name": source.backbone, "weights": weights} | described,
        "layer": source.layer,
        "data": data.fingerprint,
        "precision": params.extract.precision,
        "store": {"format": store.format, "dtype": store.dtype, "compression": store.compression},
    }


def _called(asked: str, kind: str, detail: str, **_: str) -> bool:
    """Whether recorded weights are those of the tag or file `asked`; the record may add a remark in brackets."""
    if kind == "imagenet":  # `V2` of `Network_Weights.V2` and of `Network_Weights.V2 (altered file)`
        return detail.partition(" ")[0].partition(".")[2] == asked
    return detail == asked or (detail.startswith(f"{asked} (") and detail.endswith(")"))

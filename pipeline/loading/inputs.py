"""The stores of an experiment, opened: those that params.yaml and the prepared data ask for, or none."""

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
        StoreError: a store is missing, unfinished or damaged, or was made with other parameters or other data;
            the message says which.
    """
    stores = []
    for source in sources:
        store = open_store(root / source.backbone / source.layer, expected_facts(source, params, data), verify)
        entry, found = params.backbone_params(source.backbone), store.manifest.facts["backbone"]["weights"]
        asked = {"imagenet": entry.tag, "path": Path(entry.weights).name}.get(found["kind"])
        if asked is not None and not _called(asked, **found):
            raise StoreError(
                f"{store.path} is stale: its weights are {found['detail']}, not those called {asked}; "
                f"{remedy(store.path)}"
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
    """The stores of all that the inverter takes: of its sources and, in two stages, the refined images.

    Raises:
        StoreError: as `open_features`, or the first stage is another one or not whole.
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
        denied = differences({"refined": expected}, {"refined": found}) or ["it was refined with further options"]
        raise StoreError(f"{images.path} is stale: {'; '.join(denied)}; {remedy(images.path)}")
    return Inputs((store,), images)


def first_stage_facts(params: Params, store: FeatureStore) -> dict[str, Any]:
    """What determines the refined images of one source, as plain values."""
    chosen = params.two_stage
    return {
        "source": str(store.source),
        "features": store.fingerprint,
        "refiner": chosen.refine,
        "options": params.refiner_options(chosen.refine),
        "budget": chosen.budget,
        "start": params.linear_options,  # options of the read-out that it starts from
        "dtype": store.dtype,
    }


def expected_facts(source: Source, params: Params, data: PreparedData) -> dict[str, Any]:
    """What params.yaml and the prepared data say about a store, without looking at the network."""
    entry, store = params.backbone_params(source.backbone), params.store
    weights: dict[str, str] = {"kind": entry.kind}
    if entry.kind == "random":
        weights["detail"] = f"seed {entry.seed}"
    described = entry.model_dump(include={"library", "model"}, exclude_none=True)  # what its name does not say
    return {
        "backbone": {"name": source.backbone, "weights": weights} | described,
        "layer": source.layer,
        "data": data.fingerprint,
        "precision": params.extract.precision,
        "store": {"format": store.format, "dtype": store.dtype, "compression": store.compression},
    }


def _called(asked: str, kind: str, detail: str, **_: str) -> bool:
    """Whether weights are those of the tag or file `asked`: in brackets may follow what was found or taken off."""
    if kind == "imagenet":  # `V2` of `Network_Weights.V2` and of `Network_Weights.V2 (altered file)`
        return detail.partition(" ")[0].partition(".")[2] == asked
    return detail == asked or (detail.startswith(f"{asked} (") and detail.endswith(")"))

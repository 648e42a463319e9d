"""The feature stores of an experiment, opened: those that params.yaml and the prepared data ask for, or none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.images import PreparedData
from pipeline.params import Params
from pipeline.sources import Source
from pipeline.stores import FeatureStore, open_store
from pipeline.stores.base import Verify


def open_features(
    root: Path, sources: Iterable[Source], params: Params, data: PreparedData, verify: Verify = "lazy"
) -> tuple[FeatureStore, ...]:
    """Open `root`/<backbone>/<layer> of each source.

    Raises:
        StoreError: a store is missing, unfinished or damaged, or was made with other parameters or other data;
            the message says which.
    """
    return tuple(
        open_store(root / source.backbone / source.layer, expected_facts(source, params, data), verify)
        for source in sources
    )


def expected_facts(source: Source, params: Params, data: PreparedData) -> dict[str, Any]:
    """What params.yaml and the prepared data say about a store, without looking at the network."""
    entry, store = params.backbones[source.backbone], params.store
    weights = {"kind": entry.weights if entry.weights in ("random", "imagenet") else "path"}
    if entry.weights == "random":
        weights["detail"] = f"seed {entry.seed}"
    return {
        "backbone": {"name": source.backbone, "weights": weights},
        "layer": source.layer,
        "data": data.fingerprint,
        "precision": params.extract.precision,
        "store": {"format": store.format, "dtype": store.dtype, "compression": store.compression},
    }

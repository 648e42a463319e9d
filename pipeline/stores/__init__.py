"""Feature stores: `open_store` to read one, `FORMATS` to write one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.stores import hdf5_store, zarr_store  # noqa: F401  (they register themselves)
from pipeline.stores.base import FORMATS, FeatureStore, Verify, check_sizes
from pipeline.stores.manifest import Manifest, differences, remedy

__all__ = ["FORMATS", "FeatureStore", "open_store"]


def open_store(path: Path, expect: str | Mapping[str, Any] | None = None, verify: Verify = "lazy") -> FeatureStore:
    """Open the finished store `features/<backbone>/<layer>`.

    Args:
        expect: the fingerprint it must have, or facts that its manifest must state (any part of them, as
            `pipeline.extraction.store_facts` gives them); with facts the error names what differs.
        verify: `lazy` checks metadata now and each shard's checksum when the shard is first touched.

    Raises:
        StoreError: there is no store, it is not finished, not the one expected, or damaged.
    """
    manifest = Manifest.read(path)
    _check_expected(path, manifest, expect)
    check_sizes(path, manifest.files)
    store = FORMATS.get(manifest.layout.format)().open(path, manifest, verify)
    if verify == "lazy":
        store.check_metadata()
    return store


def _check_expected(path: Path, manifest: Manifest, expect: str | Mapping[str, Any] | None) -> None:
    if isinstance(expect, str) and manifest.fingerprint != expect:
        found = manifest.fingerprint
        raise StoreError(f"{path} is stale: its fingerprint is {found[:12]}…, not {expect[:12]}…; {remedy(path)}")
    if isinstance(expect, Mapping):
        denied = differences(expect, manifest.facts)
        if denied:
            raise StoreError(f"{path} is stale: {'; '.join(denied)}; {remedy(path)}")

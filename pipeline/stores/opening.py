"""Finished feature stores, found and opened for reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import StoreError
from pipeline.stores.base import FeatureStore, check_sizes
from pipeline.stores.files import Verify
from pipeline.stores.format import FORMATS
from pipeline.stores.manifest import MANIFEST, Manifest, differences, remedy


def open_store(path: Path, expect: str | Mapping[str, Any] | None = None, verify: Verify = "lazy") -> FeatureStore:
    """Open the finished store `features/<backbone>/<layer>`.

    Args:
        expect: the expected fingerprint, or expected facts (any part of those of
            `pipeline.extraction.job.store_facts`); with facts, the error names the differences.
        verify: `lazy` checks metadata now and each shard's checksum when the shard is first read.

    Raises:
        StoreError: the store is missing, unfinished, damaged, or not the expected one.
    """
    manifest = Manifest.read(path)
    _check_expected(path, manifest, expect)
    check_sizes(path, manifest.files)
    store = FORMATS.get(manifest.layout.format)().open(path, manifest, verify)
    store.reopen = open_store
    if verify == "lazy":
        store.check_metadata()
    return store


def find_stores(path: Path) -> list[Path]:
    """The directories of stores at or below `path`: features, features/<backbone> or features/<backbone>/<layer>.

    Unfinished stores are included, the placeholder of an ensemble's unused slot is not.

    Raises:
        StoreError: no store is found.
    """
    depth = next(
        (depth for depth in (0, 1, 2) if any((place / MANIFEST).is_file() for place in _below(path, depth))), None
    )
    if depth is None:
        raise StoreError(f"{path} holds no feature stores; run `python -m stages extract`")
    return [place for place in _below(path, depth) if place.parent.name != "none"]


def _below(path: Path, depth: int) -> list[Path]:
    return sorted(place for place in path.glob("/".join("*" * depth)) if place.is_dir()) if depth else [path]


def _check_expected(path: Path, manifest: Manifest, expect: str | Mapping[str, Any] | None) -> None:
    if isinstance(expect, str) and manifest.fingerprint != expect:
        found = manifest.fingerprint
        raise StoreError(f"{path} is stale: its fingerprint is {found[:12]}…, not {expect[:12]}…; {remedy(path)}")
    if isinstance(expect, Mapping):
        denied = differences(expect, manifest.facts)
        if denied:
            raise StoreError(f"{path} is stale: {'; '.join(denied)}; {remedy(path)}")

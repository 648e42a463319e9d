"""A store that is stale, partial or damaged is never read: each fault is one sentence with file, fact and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import says
from small_stores import write_store

from pipeline.core.errors import StoreError
from pipeline.stores.base import FeatureStore
from pipeline.stores.manifest import fingerprint
from pipeline.stores.opening import open_store

REMEDY = "run `python -m stages extract --backbone net`"
SHARD = {"zarr": "features.zarr/c.1.0.0.0", "hdf5": "shards/00001.h5"}
METADATA = {"zarr": "features.zarr/zarr.json", "hdf5": "features.h5"}


@pytest.fixture(params=["zarr", "hdf5"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> Path:
    """features/net/layer with three shards of four rows, seen from the project's root."""
    monkeypatch.chdir(tmp_path)
    path = Path("features/net/layer")
    features = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    write_store(path, features, format, "int8", "none", shard_rows=4)
    return path


def refusal(path: Path, **arguments: object) -> str:
    with pytest.raises(StoreError) as error:
        open_store(path, **arguments)  # type: ignore[arg-type]
    return str(error.value)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit_manifest(store: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_no_store_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("features/net/layer")
    assert refusal(path) == f"features/net/layer: there is no feature store here; {REMEDY}"


def test_no_manifest(store: Path) -> None:
    (store / "manifest.json").unlink()
    says(refusal(store), "features/net/layer", "no manifest.json", REMEDY)


def test_truncated_manifest(store: Path) -> None:
    path = store / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    says(refusal(store), "features/net/layer/manifest.json is damaged", "JSON", REMEDY)


def test_edited_manifest(store: Path) -> None:
    edit_manifest(store, lambda content: content["facts"].update(data="other"))  # type: ignore[attr-defined]
    says(refusal(store), "features/net/layer/manifest.json is damaged", "checksum", REMEDY)


def test_manifest_of_another_version(store: Path) -> None:
    edit_manifest(store, lambda content: content.update(version=99))
    says(refusal(store), "features/net/layer/manifest.json", "version 99", "reads 1", REMEDY)


def test_another_fingerprint(store: Path) -> None:
    found = open_store(store).fingerprint
    assert open_store(store, expect=found).fingerprint == found
    says(refusal(store, expect="f" * 64), "features/net/layer is stale", found[:12], "not ffffffffffff…", REMEDY)


def test_other_facts_are_named(store: Path) -> None:
    facts = open_store(store).manifest.facts
    assert open_store(store, expect=facts).rows == 12
    asked = {"backbone": {"name": "net"}, "data": "other", "precision": "fp32", "store": {"dtype": "float16"}}
    says(
        refusal(store, expect=asked),
        "features/net/layer is stale",
        "data is d, not other",
        "precision is missing, not fp32",
        "store.dtype is int8, not float16",
        REMEDY,
    )


def test_missing_shard(store: Path, format: str) -> None:
    (store / SHARD[format]).unlink()
    assert refusal(store) == f"features/net/layer/{SHARD[format]} is missing; {REMEDY}"


@pytest.mark.parametrize("change", [-1, 1])
def test_truncated_or_longer_shard(store: Path, format: str, change: int) -> None:
    path = store / SHARD[format]
    content = path.read_bytes()
    path.write_bytes((content + b"x")[: len(content) + change])
    assert refusal(store) == (
        f"features/net/layer/{SHARD[format]} has {len(content) + change} bytes instead of {len(content)}; {REMEDY}"
    )


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_flipped_byte_is_found_at_the_first_touch_of_its_shard(store: Path, format: str, place: str) -> None:
    path = store / SHARD[format]
    size = path.stat().st_size
    flip(path, {"first": 0, "middle": size // 2, "last": size - 1}[place])
    opened = open_store(store)
    opened.read(np.array([0, 3, 8]))  # shards 0 and 2 are whole
    with pytest.raises(StoreError) as error:
        opened.read(np.array([0, 5]))
    assert str(error.value).startswith(f"features/net/layer/{SHARD[format]} is damaged: its checksum is ")
    assert str(error.value).endswith(f"; {REMEDY}")


def test_flipped_byte_is_found_by_a_full_check(store: Path, format: str) -> None:
    assert list(open_store(store).damage()) == []
    flip(store / SHARD[format], 100)
    (found,) = open_store(store).damage()
    assert found.startswith(f"features/net/layer/{SHARD[format]} is damaged: its checksum is ")


def test_flipped_byte_in_the_metadata(store: Path, format: str) -> None:
    path = store / METADATA[format]
    flip(path, path.stat().st_size // 2)
    assert refusal(store).startswith(f"features/net/layer/{METADATA[format]} is damaged: its checksum is ")


def test_missing_metadata(store: Path, format: str) -> None:
    (store / METADATA[format]).unlink()
    assert refusal(store) == f"features/net/layer/{METADATA[format]} is missing; {REMEDY}"


def test_damage_during_reading_does_not_stick_to_other_shards(store: Path, format: str) -> None:
    flip(store / SHARD[format], 100)
    opened = open_store(store)
    for _ in range(2):  # the second touch must fail like the first
        with pytest.raises(StoreError):
            opened.read(np.array([4]))
    assert opened.read(np.array([0])).shape == (1, 3, 8, 8)


def test_verify_never_reads_without_checking(store: Path, format: str) -> None:
    payload = open_store(store)
    before = payload.read(np.arange(12))
    flip(store / SHARD[format], (store / SHARD[format]).stat().st_size // 2)
    after = open_store(store, verify="never").read(np.arange(12))
    assert (before != after).sum() <= 1  # at most the element that the flipped bit belongs to


def test_missing_scales(store: Path, format: str) -> None:
    if format == "hdf5":
        pytest.skip("HDF5 keeps the scales in the files of the shards")
    (store / "scales.zarr/c.0.0.0").unlink()
    assert refusal(store) == f"features/net/layer/scales.zarr/c.0.0.0 is missing; {REMEDY}"


def test_index_of_chunks_is_checked_even_when_nothing_else_is(store: Path, format: str) -> None:
    if format == "hdf5":
        pytest.skip("HDF5 has no such index")
    path = store / SHARD["zarr"]
    flip(path, path.stat().st_size - 20)
    with pytest.raises(StoreError) as error:
        open_store(store, verify="never").read(np.array([4]))
    says(error.value, f"features/net/layer/{SHARD['zarr']} is damaged", "index", "checksum", REMEDY)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_damaged_compressed_chunk_that_nobody_checked(tmp_path: Path, format: str, codec: str) -> None:
    path = tmp_path / "net" / "layer"
    features = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    write_store(path, features, format, "float32", codec, shard_rows=4)
    store = open_store(path, verify="never")
    name = "features.zarr/c.0.0.0.0" if format == "zarr" else "shards/00000.h5"
    chunks = FeatureStore._chunks(store, "features", 0)
    content = bytearray((path / name).read_bytes())
    start = chunks.offsets[1]
    content[start : start + chunks.sizes[1]] = bytes(chunks.sizes[1])
    (path / name).write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged: row 1 cannot be decompressed; run `python -m stages extract"):
        open_store(path, verify="never").read(np.array([1]))


def test_fingerprint_ignores_the_order_of_facts_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})

"""Batches from the cache: the right rows and pixels in the plan's order, from disk or memory, and errors on time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from devices import needs_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import says
from small_stores import CPU, SmallData, small_extraction, small_params

from pipeline.core.errors import StoreError
from pipeline.core.sources import Inputs
from pipeline.loading import loader as module
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import windowed_plan, windows
from pipeline.loading.slots import fill_ahead, new_slots
from pipeline.stores import layout
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store

PLAN = [np.array([5, 3, 39]), np.array([0]), np.array([7, 7, 8, 9, 1])]
LAYERS = ("shallow", "deep")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MEGABYTE", 10_000)


def make(root: Path, **store: object) -> tuple[FeatureStore, ...]:
    small_extraction(root, small_params(**store))
    return tuple(open_store(root / "features/small" / layer) for layer in LAYERS)


@pytest.mark.parametrize("resident", ["never", "always"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_batches_hold_the_planned_rows(tmp_path: Path, resident, dtype: str, format: str) -> None:
    data, stores = SmallData(), make(tmp_path, dtype=dtype, format=format)
    with CachedFeatures(data, Inputs(stores), CPU, resident) as cached:
        assert cached.resident == (resident == "always")
        batches = list(cached.batches(PLAN))  # kept: a batch owns its memory
    assert [batch.rows.tolist() for batch in batches] == [rows.tolist() for rows in PLAN]
    for batch in batches:
        for features, store in zip(batch.inputs, stores, strict=True):
            assert features.dtype == torch.float32
            np.testing.assert_array_equal(features.numpy(), store.read(batch.rows))
        expected = torch.from_numpy(data.crops(batch.rows)).permute(0, 3, 1, 2) / 255
        assert torch.equal(batch.targets, expected)
        assert batch.targets.is_contiguous(memory_format=torch.channels_last)


def test_compressed_stores_are_decoded_by_the_readers(tmp_path: Path) -> None:
    data, stores = SmallData(), make(tmp_path, compression="lz4")
    with CachedFeatures(data, Inputs(stores), CPU, "never", threads=3) as cached:
        for batch in cached.batches(PLAN * 20):
            np.testing.assert_array_equal(batch.inputs.features[1].numpy(), stores[1].read(batch.rows))


def test_many_batches_through_few_slots_keep_their_order(tmp_path: Path) -> None:
    data, stores = SmallData(), make(tmp_path)
    plan = [np.random.default_rng(i).permutation(40)[: 1 + i % 7] for i in range(200)]
    with CachedFeatures(data, Inputs(stores), CPU, "never", threads=4, ahead=2) as cached:
        for rows, batch in zip(plan, cached.batches(iter(plan)), strict=True):
            np.testing.assert_array_equal(batch.rows, rows)
            np.testing.assert_array_equal(batch.inputs.features[0].numpy(), stores[0].read(rows))


@pytest.mark.parametrize("resident", ["never", "always"])
@pytest.mark.parametrize("row", [-1, 40])
def test_there_is_no_such_row(tmp_path: Path, resident, row: int) -> None:
    stores = Inputs(make(tmp_path))
    with CachedFeatures(SmallData(), stores, CPU, resident) as cached, pytest.raises(IndexError, match="of 40"):
        list(cached.batches([np.array([3, row])]))


def test_leaving_early_stops_the_threads(tmp_path: Path) -> None:
    data, stores = SmallData(), make(tmp_path)
    with CachedFeatures(data, Inputs(stores), CPU, "never") as cached:
        batches = cached.batches([np.array([0])] * 1000)
        next(batches)
        batches.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ring")]
        assert len(list(cached.batches(PLAN))) == 3  # and the next epoch starts afresh


def test_damage_is_raised_in_turn(tmp_path: Path) -> None:
    data, stores = SmallData(), make(tmp_path)
    shard = stores[0].path / "features.zarr/c.2.0.0.0"  # rows 18 to 26
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with CachedFeatures(data, Inputs(stores), CPU, "never") as cached:
        batches = cached.batches([np.array([0]), np.array([1]), np.array([20]), np.array([2])])
        assert next(batches).rows.tolist() == [0]
        assert next(batches).rows.tolist() == [1]
        with pytest.raises(StoreError, match=r"features\.zarr/c\.2\.0\.0\.0 is damaged"):
            next(batches)
    with pytest.raises(StoreError, match=r"is damaged"):
        CachedFeatures(data, Inputs((open_store(stores[0].path),)), CPU, "always")


def test_stores_of_other_prepared_data_are_refused(tmp_path: Path) -> None:
    stores, other = make(tmp_path), SmallData(rows=30, seed=2)
    with pytest.raises(StoreError) as error:
        CachedFeatures(other, Inputs(stores), CPU)
    path = tmp_path / "features/small/shallow"
    says(
        error.value,
        f"{path} is stale",
        "40 rows",
        SmallData().fingerprint[:12],
        "30",
        other.fingerprint[:12],
        "data/prepared",
        "`python -m stages extract --backbone small`",
    )


def test_auto_keeps_what_fits_half_of_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, stores = SmallData(), make(tmp_path)
    size = 40 * (8 * 8 * 8 * 2 + 16 * 4 * 4 * 2 + 16 * 16 * 3)
    for free, resident in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(module, "free_memory", lambda device, free=free: free)
        assert CachedFeatures(data, Inputs(stores), CPU).resident == resident


def test_always_says_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, stores = SmallData(), make(tmp_path)
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(StoreError) as error:
        CachedFeatures(data, Inputs(stores), CPU, "always")
    says(error.value, "train.resident = always", "need 0.0 GB", "0.0 GB free", "use auto or never")


def test_free_memory_is_within_the_machine() -> None:
    assert 1 << 20 < module.free_memory(CPU) < 1 << 50


def test_free_memory_respects_a_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"MEMORY_LIMIT": "5000000\n", "MEMORY_USED": "1000000\n", "MEMORY_STAT": "anon 1\ninactive_file 300000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(module, name, tmp_path / name)
    assert module.free_memory(CPU) == 4_300_000  # files that were read are no use of memory that lasts
    (tmp_path / "MEMORY_STAT").unlink()
    assert module.free_memory(CPU) == 4_000_000


def test_waiting_is_what_reading_could_not_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, stores = SmallData(), make(tmp_path)
    read = FeatureStore.read_into

    def slow(self: FeatureStore, rows: np.ndarray, out: np.ndarray) -> None:
        time.sleep(0.02)
        read(self, rows, out)

    monkeypatch.setattr(FeatureStore, "read_into", slow)
    with CachedFeatures(data, Inputs(stores[:1]), CPU, "never", threads=2) as eager:
        list(eager.batches([np.array([0])] * 20))  # nothing to hide behind: 20 × 20 ms in two threads
    with CachedFeatures(data, Inputs(stores[:1]), CPU, "never", threads=2) as patient:
        for _ in patient.batches([np.array([0])] * 20):
            time.sleep(0.03)
    assert eager.waited > 0.15
    assert patient.waited < 0.1


def test_slots_are_allocated_once(tmp_path: Path) -> None:
    stores = make(tmp_path)
    slots = new_slots(2, stores, 16, CPU)
    seen = set()
    for rows in (np.arange(8), np.arange(3), np.arange(8)):
        for slot in fill_ahead([rows, rows], lambda slot, rows: slot.reserve(rows) and None, slots, threads=1):
            seen.add(slot.stored().pixels.data_ptr())
    assert len(seen) == 2


@given(
    count=st.integers(1, 200), shard_rows=st.integers(1, 60), shards=st.integers(1, 9), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=100, deadline=None)
def test_windows_visit_every_row_once_and_few_shards_at_a_time(
    count: int, shard_rows: int, shards: int, seed: int
) -> None:
    rows = np.arange(0, 3 * count, 3)
    found = windows(rows, shard_rows, shards, np.random.default_rng(seed))
    assert sorted(np.concatenate(found)) == list(rows)
    assert all(len(set(window // shard_rows)) <= shards for window in found)
    again = windows(rows, shard_rows, shards, np.random.default_rng(seed))
    assert all((one == other).all() for one, other in zip(found, again, strict=True))


def test_windows_mix() -> None:
    first, *_ = windows(np.arange(1000), 50, 4, np.random.default_rng(0))
    assert len(first) == 200
    assert set(first // 50) != {0, 1, 2, 3}  # shards from anywhere
    assert np.abs(np.diff(first // 50)).astype(bool).mean() > 0.5  # neighbours come from different shards


@pytest.mark.parametrize("batch_size", [1, 4, 7, 40, 50])
def test_a_windowed_epoch_has_no_more_batches_than_another(tmp_path: Path, batch_size: int) -> None:
    plan = list(windowed_plan(make(tmp_path)[:1], np.arange(40), batch_size, 1, np.random.default_rng(1)))
    assert [len(rows) for rows in plan[:-1]] == [batch_size] * (-(-40 // batch_size) - 1)
    assert sorted(np.concatenate(plan)) == list(range(40))


def test_a_windowed_epoch_reads_ahead_by_one_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, stores = SmallData(), make(tmp_path)
    asked: list[set[int]] = []
    will_need = FeatureStore.will_need

    def note(self: FeatureStore, rows: np.ndarray) -> None:
        asked.append(set())
        will_need(self, rows)

    monkeypatch.setattr("pipeline.stores.base.read_ahead", lambda path: asked[-1].add(int(path.name.split(".")[1])))
    monkeypatch.setattr(FeatureStore, "will_need", note)
    with CachedFeatures(data, Inputs(stores[:1]), CPU, "never") as cached:
        plan = windowed_plan(stores[:1], np.arange(40), 4, 2, np.random.default_rng(1))
        used = [batch.rows for batch in cached.batches(plan)]
    expected = windows(np.arange(40), 9, 2, np.random.default_rng(1))
    np.testing.assert_array_equal(np.concatenate(used), np.concatenate(expected))
    assert asked == [*(set(window // 9) for window in expected[1:]), set()]


@needs_gpu
@pytest.mark.parametrize("resident", ["never", "always"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_batches_on_the_gpu(tmp_path: Path, resident, dtype: str) -> None:
    data, stores, device = SmallData(), make(tmp_path, dtype=dtype), torch.device("cuda")
    with CachedFeatures(data, Inputs(stores), device, resident) as cached:
        for batch in cached.batches(PLAN * 50):
            assert batch.targets.is_cuda
            for features, store in zip(batch.inputs, stores, strict=True):
                np.testing.assert_allclose(features.cpu().numpy(), store.read(batch.rows), rtol=1e-6, atol=1e-7)
            pixels = batch.targets.cpu().permute(0, 2, 3, 1).mul(255).round().byte().numpy()
            np.testing.assert_array_equal(pixels, data.crops(batch.rows))

"""Stores in worker processes that start anew (spawn, forkserver), where everything they hold has been pickled."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import write_store
from torch.utils.data import DataLoader, Dataset

from pipeline.core.errors import StoreError
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store

ROWS = torch.randn(11, 4, 6, 5, generator=torch.Generator().manual_seed(3))


def written(path: Path, format: str = "zarr", dtype: str = "float16") -> Path:
    write_store(path, ROWS, format, dtype, "lz4", 4)
    return path


class Rows(Dataset[torch.Tensor]):
    """As one would write it in a notebook."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return self.store.rows

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.store.read(np.array([row]))[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "format", "dtype"),
    [("spawn", "zarr", "float16"), ("forkserver", "hdf5", "int8"), ("fork", "hdf5", "int8")],
)
def test_a_store_is_read_by_a_worker_of_a_torch_dataset(tmp_path: Path, method: str, format: str, dtype: str) -> None:
    store = open_store(written(tmp_path, format, dtype))
    store.read(np.arange(store.rows))  # it holds maps of every shard by now
    found = torch.cat(list(DataLoader(Rows(store), 4, num_workers=1, multiprocessing_context=method)))
    assert torch.equal(found, torch.from_numpy(store.read(np.arange(store.rows))))


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_pickled_store_is_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, dtype: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(written(Path("store"), format, dtype), verify="never")
    rows = np.array([7, 0, 10])
    values, content = store.read(rows), pickle.dumps(store)
    monkeypatch.chdir(tmp_path.parent)  # a worker may stand elsewhere
    again = pickle.loads(content)
    assert (again.fingerprint, again.source, again._verify) == (store.fingerprint, store.source, "never")
    assert np.array_equal(again.read(rows), values)
    assert len(content) < 1000  # the place, not the rows
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(copy.deepcopy(store).read(rows), values)


def test_a_store_that_is_another_by_then_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "store")
    content = pickle.dumps(open_store(path))
    shutil.rmtree(path)
    with pytest.raises(StoreError):
        pickle.loads(content)
    written(path, dtype="float32")
    with pytest.raises(StoreError, match="is stale: its fingerprint is"):
        pickle.loads(content)

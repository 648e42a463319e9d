"""A store as a torch Dataset: the rows of one split, each with the crop that gave it."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_experiment import experiment
from torch.utils.data import DataLoader

from pipeline.core.errors import DataError, StoreError
from pipeline.data.rows import FeatureRows
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData


def opened() -> tuple[FeatureStore, PreparedData]:
    made = experiment("linear")
    return open_store(made.features / "vgg16/block1"), made.data()


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_are_those_of_the_split_with_their_crops(split: str) -> None:
    store, data = opened()
    dataset, rows = FeatureRows(store, data, split), data.rows(split)
    assert len(dataset) == len(rows)
    features, crop = dataset[1]
    np.testing.assert_array_equal(features, store.read(rows[1:2])[0])
    np.testing.assert_allclose(crop.permute(1, 2, 0), data.crops(rows[1:2])[0] / 255, rtol=1e-6)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_in_any_order_from_this_process_or_others(workers: int) -> None:
    store, data = opened()
    method = "spawn" if workers else None
    dataset = FeatureRows(store, data, "train")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(dataset, 5, sampler=order, num_workers=workers, multiprocessing_context=method)
    features = torch.cat([batch for batch, _ in loader])
    np.testing.assert_array_equal(features, store.read(data.rows("train")[order]))


def test_a_store_of_other_data_is_refused(tmp_path: Path) -> None:
    store, data = opened()
    other = PreparedData(data.root, data.manifest | {"fingerprint": "0" * 64})
    with pytest.raises(StoreError, match=r"is stale: it was not made from .*extract"):
        FeatureRows(store, other, "train")


def test_prepared_data_is_pickled_as_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = opened()
    place = tmp_path / "prepared"
    shutil.copytree(data.root, place)
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(PreparedData.open(Path("prepared")))
    monkeypatch.chdir(tmp_path.parent)
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.crops(np.array([3, 0])), data.crops(np.array([3, 0])))
    assert len(content) < 1000
    manifest = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(manifest.replace(data.fingerprint, "0" * len(data.fingerprint)))
    with pytest.raises(DataError, match="prepared again"):
        pickle.loads(content)

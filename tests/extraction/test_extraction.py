"""Extracted features are the network's: those of a hand-written forward, within the rounding of their type."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from devices import needs_gpu
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from shipped import backbone_params, extract_params
from small_stores import CPU, ROUNDING, SmallBackbone, SmallData, apart, small_extraction, small_params, tree
from torch import nn
from torchvision.models import vgg16

from pipeline.backbones.backbone import load_backbone
from pipeline.extraction import compute
from pipeline.extraction.job import Job
from pipeline.stores.opening import open_store

FORMATS = ["zarr", "hdf5"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_float32_features_are_those_of_a_hand_written_forward(tmp_path: Path, format: str, codec: str) -> None:
    data, network = SmallData(), SmallBackbone()
    small_extraction(tmp_path, small_params(format=format, dtype="float32", compression=codec))
    pixels = torch.from_numpy(data.crops(np.arange(40)))
    images = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
    with torch.no_grad():
        shallow = torch.relu(network.first(images))
        deep = torch.relu(network.second(shallow))
    for layer, expected in (("shallow", shallow), ("deep", deep)):
        store = open_store(tmp_path / "features/small" / layer)
        found = store.read(np.arange(40))
        assert apart(found, expected.numpy()) < ROUNDING  # here all rows went through the network together
        np.testing.assert_allclose(store.mean, expected[:32].mean((0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(store.std, expected[:32].std((0, 2, 3), correction=0), rtol=1e-4)


def test_vgg16_features_are_those_of_torchvisions_truncated_network(tmp_path: Path) -> None:
    data, entry = SmallData(rows=7, crop=64), backbone_params(weights="random", seed=5, layers=("block1", "block2"))
    backbone = load_backbone("vgg16", entry, CPU)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        features = vgg16(weights=None).features.eval().to(memory_format=torch.channels_last)
    small_extraction(
        tmp_path, small_params(dtype="float32"), backbone=backbone, data=data, output=tmp_path / "features/vgg16"
    )
    pixels = torch.from_numpy(data.crops(np.arange(7)))
    images = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        normalised = (images - mean[:, None, None]) / std[:, None, None]
        block1 = features[:5](normalised)
        block2 = features[5:10](block1)
    for layer, expected in (("block1", block1), ("block2", block2)):
        found = open_store(tmp_path / "features/vgg16" / layer).read(np.arange(7))
        assert apart(found, expected.numpy()) < ROUNDING


def test_float16_features_are_within_their_rounding(tmp_path: Path) -> None:
    small_extraction(tmp_path, small_params(dtype="float32"))
    exact = open_store(tmp_path / "features/small/deep").read(np.arange(40))
    small_extraction(tmp_path, small_params(dtype="float16"))
    found = open_store(tmp_path / "features/small/deep").read(np.arange(40))
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < 3e-4


@pytest.mark.parametrize(("precision", "low", "high"), [("bf16", 1e-4, 2e-2), ("fp16", 1e-5, 2e-3)])
def test_autocast_is_used_and_recorded(tmp_path: Path, precision: str, low: float, high: float) -> None:
    small_extraction(tmp_path, small_params(dtype="float32"))
    exact = open_store(tmp_path / "features/small/deep").read(np.arange(40))
    settings = extract_params(precision=precision, batch_size=3)
    small_extraction(tmp_path, small_params(dtype="float32"), settings=settings)
    store = open_store(tmp_path / "features/small/deep")
    error = np.sqrt(((store.read(np.arange(40)) - exact) ** 2).mean() / (exact**2).mean())
    assert low < error < high
    assert store.manifest.facts["precision"] == precision


def test_the_backbone_keeps_every_bit_and_buffer(tmp_path: Path) -> None:
    backbone = SmallBackbone()
    backbone.norm = nn.BatchNorm2d(3)
    before = {key: value.clone() for key, value in backbone.eval().state_dict().items()}
    small_extraction(tmp_path, backbone=backbone)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_a_shard_holds_the_same_rows_in_every_layer(tmp_path: Path) -> None:
    small_extraction(tmp_path)
    shapes = {layer: open_store(tmp_path / "features/small" / layer).layout for layer in ("shallow", "deep")}
    assert {entry.shard_rows for entry in shapes.values()} == {9}
    assert {entry.shards for entry in shapes.values()} == {5}


def test_every_row_passes_once_for_all_layers(tmp_path: Path) -> None:
    backbone = SmallBackbone()
    small_extraction(tmp_path, backbone=backbone)
    assert backbone.seen == 40


def test_photographs_that_were_passed_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "FORGET", 10 * 3 * 16 * 16)  # ten rows
    data = SmallData()
    data.forget = Mock()
    small_extraction(tmp_path, data=data)
    assert data.forget.call_count == 3  # after 12, 24 and 36 of 40 rows


def test_a_batch_size_that_is_found_is_a_shard_on_a_gpu_and_the_usual_one_on_a_cpu() -> None:
    def job(device: str, batch_size: int | None) -> Job:
        settings = extract_params(batch_size=batch_size)
        return Job(SmallBackbone(), SmallData(), small_params(), settings, torch.device(device))

    found = job("cuda", None)
    assert [len(rows) for shard in range(found.shards) for rows in found.batches(shard)] == [9, 9, 9, 9, 4]
    assert {facts["batch_size"] for facts in found.facts.values()} == {9}
    assert job("cuda", 4).facts["deep"]["batch_size"] == 4
    assert job("cpu", None).facts == job("cpu", 16).facts


def test_fp32_is_without_tf32(tmp_path: Path) -> None:
    """The flags hold on any machine; what they do shows on a GPU alone."""
    seen: set[tuple[bool, bool]] = set()
    backbone, (matmul, cudnn) = SmallBackbone(), (torch.backends.cuda.matmul, torch.backends.cudnn)
    backbone.register_forward_hook(lambda *_: seen.add((matmul.allow_tf32, cudnn.allow_tf32)))
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        small_extraction(tmp_path, backbone=backbone)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
    assert seen == {(False, False)}


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_gpu_gives_the_cpus_features(tmp_path: Path, precision: str, dtype: str) -> None:
    small_extraction(tmp_path / "cpu", small_params(dtype="float32"))
    settings = extract_params(precision=precision, batch_size=3)
    for name in ("once", "again"):
        small_extraction(tmp_path / name, small_params(dtype=dtype), settings=settings, device=torch.device("cuda"))
    assert tree(tmp_path / "once") == tree(tmp_path / "again")
    exact = open_store(tmp_path / "cpu/features/small/deep").read(np.arange(40))
    found = open_store(tmp_path / "once/features/small/deep").read(np.arange(40))
    bar = max({"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}[precision], 4e-3 if dtype == "int8" else 0)
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < bar

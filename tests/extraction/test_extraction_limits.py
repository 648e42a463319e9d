"""What stops an extraction: no room on disk or device, features that are not finite, a writer that fails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import says
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from shipped import backbone_params, extract_params
from small_stores import CPU, ROUNDING, SmallBackbone, apart, small_extraction, small_params, tree

from pipeline.backbones.backbone import load_backbone
from pipeline.core.errors import DeviceError, StoreError
from pipeline.core.paths import Paths
from pipeline.extraction import run
from pipeline.stores import layout
from pipeline.stores.opening import open_store
from stages.unused import unused_slot


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "free_bytes", lambda path: 1000)
    backbone = SmallBackbone()
    with pytest.raises(StoreError) as error:
        small_extraction(Path(), backbone=backbone)
    says(
        error.value,
        "the features of small need 0.00 GB",
        "work has 0.00 GB free",
        "store.dtype: int8",
        "store.compression: zstd",
    )
    assert backbone.seen == 0
    assert not list(Path("work").rglob("*.zarr"))


def test_other_file_systems_are_refused_before_any_work(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system to try")
    backbone = SmallBackbone()
    with pytest.raises(
        StoreError, match=r"are on different file systems.*; pass --work a directory on the file system"
    ):
        small_extraction(tmp_path, backbone=backbone, work=memory / "never-made")
    assert backbone.seen == 0


class HungryBackbone(SmallBackbone):
    """Has memory for `room` images at a time, and says `refusal` to more."""

    def __init__(self, room: int, refusal: RuntimeError | None = None) -> None:
        super().__init__()
        self.room, self.sizes = room, []
        self.refusal = refusal or torch.OutOfMemoryError("no room. Tried to allocate much")

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.refusal
        return super().forward(images)


WORDS = (
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "GET was unable to find an engine to execute this computation",
)


@pytest.mark.parametrize("refusal", [torch.OutOfMemoryError("no room"), *map(RuntimeError, WORDS)])
def test_out_of_memory_halves_the_batch_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: RuntimeError
) -> None:
    monkeypatch.setattr(layout, "MEGABYTE", 20_000)  # nine rows of float32 in a shard
    settings, store = extract_params(batch_size=9), small_params(dtype="float32")
    small_extraction(tmp_path / "roomy", store, settings=settings)
    backbone = HungryBackbone(2, refusal)
    small_extraction(tmp_path / "tight", store, settings=settings, backbone=backbone)
    assert backbone.sizes[:8] == [9, 5, 3, 2, 2, 2, 2, 1]  # halved until it fits, then kept
    assert max(backbone.sizes[4:]) == 2
    assert list(tree(tmp_path / "tight")) == list(tree(tmp_path / "roomy"))
    for layer in ("shallow", "deep"):  # smaller batches: equal but for rounding, which a processor may do otherwise
        tight, roomy = (open_store(tmp_path / name / "features/small" / layer) for name in ("tight", "roomy"))
        assert apart(tight.read(np.arange(40)), roomy.read(np.arange(40))) < ROUNDING
        np.testing.assert_allclose(tight.mean, roomy.mean, rtol=1e-5)
        np.testing.assert_allclose(tight.std, roomy.std, rtol=1e-5)


def test_no_memory_for_one_image(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        small_extraction(tmp_path, backbone=HungryBackbone(room=0))
    says(error.value, "cpu has no room", "16 pixels", "small", "(no room)", "--device cpu")
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


def test_no_other_error_of_the_network_is_taken_for_it(tmp_path: Path) -> None:
    backbone = HungryBackbone(2, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        small_extraction(tmp_path, backbone=backbone)
    assert len(backbone.sizes) == 1


def test_a_gpu_without_room_for_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    sentence = r"^the GPU's memory ran out \(CUDA out of memory\); free it, or use --device cpu$"
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DeviceError, match=sentence):
        small_extraction(tmp_path)
    with pytest.raises(DeviceError, match=sentence):
        load_backbone("resnet34", backbone_params(layers=("layer1",)), CPU)


def test_features_that_are_not_finite_name_the_layer(tmp_path: Path) -> None:
    backbone = SmallBackbone()
    backbone.second.weight.fill_(float("nan"))
    with pytest.raises(StoreError, match=r"^small\.deep gives features that are not finite"):
        small_extraction(tmp_path, backbone=backbone)
    assert not (tmp_path / "features").exists()


def test_an_error_of_the_writer_stops_the_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, layer: str, piece: object) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr("pipeline.extraction.sink.Sink._append", broken)
    with pytest.raises(OSError, match="the disk went away"):
        small_extraction(tmp_path)
    assert not list((tmp_path / "work").rglob("*.part"))


def test_placeholder_of_an_unused_slot(tmp_path: Path) -> None:
    unused_slot(Paths.below(tmp_path))
    cached = tmp_path / "cached"
    os.link(tmp_path / "features/none/none/unused", cached)  # as DVC does where links are its way
    cached.write_text("what the cache holds")
    unused_slot(Paths.below(tmp_path))
    assert cached.read_text() == "what the cache holds"
    cached.unlink()
    assert list(tree(tmp_path)) == ["features/none/none/unused"]

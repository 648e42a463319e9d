"""Extraction: the right numbers, resumed without a trace, alone or in parts, refused when it cannot work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small_stores import CPU, SmallBackbone, SmallData, small_extraction, small_params, tree
from torch import nn
from torchvision.models import vgg16

from pipeline.backbones import load_backbone
from pipeline.errors import StoreError
from pipeline.extraction import compute, job, run
from pipeline.params import BackboneParams, ExtractParams
from pipeline.stores import layout, open_store
from pipeline.stores.workspace import Workspace, clean

FORMATS = ["zarr", "hdf5"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nine rows in a shard: three batches of three. 40 rows are four shards and one of four rows."""
    monkeypatch.setattr(layout, "MEGABYTE", 10_000)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    small_extraction(root)
    return tree(root / "features")


class Interrupted(Exception):
    """Stands for a killed process."""


class FailingBackbone(SmallBackbone):
    """Raises `error` when it is given its (`after` + 1)-th row."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__()
        self.after, self.error = after, error

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.seen + len(images) > self.after:
            raise self.error
        return super().forward(images)


# The numbers


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_float32_features_are_the_bits_of_a_hand_written_forward(tmp_path: Path, format: str, codec: str) -> None:
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
        np.testing.assert_array_equal(found, expected.numpy())
        np.testing.assert_allclose(store.mean, expected[:32].mean((0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(store.std, expected[:32].std((0, 2, 3), correction=0), rtol=1e-4)


def test_vgg16_features_are_the_bits_of_torchvisions_truncated_network(tmp_path: Path) -> None:
    data, entry = SmallData(rows=7, crop=64), BackboneParams(weights="random", seed=5, layers=("block1", "block2"))
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
        np.testing.assert_array_equal(found, expected.numpy())


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
    settings = ExtractParams.model_validate({"precision": precision, "batch_size": 3})
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_gpu_gives_the_cpus_features(tmp_path: Path, precision: str, dtype: str) -> None:
    small_extraction(tmp_path / "cpu", small_params(dtype="float32"))
    settings = ExtractParams.model_validate({"precision": precision, "batch_size": 3})
    for name in ("once", "again"):
        small_extraction(tmp_path / name, small_params(dtype=dtype), settings=settings, device=torch.device("cuda"))
    assert tree(tmp_path / "once") == tree(tmp_path / "again")
    exact = open_store(tmp_path / "cpu/features/small/deep").read(np.arange(40))
    found = open_store(tmp_path / "once/features/small/deep").read(np.arange(40))
    bar = max({"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}[precision], 4e-3 if dtype == "int8" else 0)
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < bar


# Again, resumed, and never mixed


@pytest.mark.parametrize("format", FORMATS)
def test_two_extractions_write_the_same_bytes(tmp_path: Path, format: str) -> None:
    for name in ("once", "again"):
        small_extraction(tmp_path / name, small_params(format=format, dtype="int8", compression="zstd"))
    assert tree(tmp_path / "once") == tree(tmp_path / "again")
    assert not any((tmp_path / "once/work").rglob("*.*"))


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    backbone = SmallBackbone()
    small_extraction(tmp_path)
    assert small_extraction(tmp_path, backbone=backbone)
    assert backbone.seen == 0


def test_a_damaged_store_is_made_again(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    small_extraction(tmp_path)
    shard = tmp_path / "features/small/deep/features.zarr/c.1.0.0.0"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    small_extraction(tmp_path)
    assert tree(tmp_path / "features") == undisturbed
    manifest = tmp_path / "features/small/deep/manifest.json"
    whole = manifest.read_bytes()
    for damaged in (whole[:100], whole.replace(b'"mean"', b'"maen"'), b"[]", b""):
        manifest.write_bytes(damaged)
        small_extraction(tmp_path)
        assert tree(tmp_path / "features") == undisturbed


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("after", [0, 2, 9, 20, 39])
def test_interrupted_work_goes_on_with_what_is_missing(tmp_path: Path, format: str, after: int) -> None:
    store = small_params(format=format, dtype="bfloat16", compression="lz4")
    small_extraction(tmp_path / "whole", store)
    with pytest.raises(Interrupted):
        small_extraction(tmp_path / "cut", store, backbone=FailingBackbone(after, Interrupted()))
    assert not (tmp_path / "cut/features").exists()
    backbone = SmallBackbone()
    small_extraction(tmp_path / "cut", store, backbone=backbone)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    done = after // 3 * 3 // 9 * 9  # whole batches, whole shards
    assert backbone.seen == 40 - done


@pytest.mark.parametrize("format", FORMATS)
def test_interrupted_between_the_last_shard_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    small_extraction(tmp_path / "whole", small_params(format=format))
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "publish", Mock(side_effect=Interrupted))
        with pytest.raises(Interrupted):
            small_extraction(tmp_path / "cut", small_params(format=format))
    backbone = SmallBackbone()
    small_extraction(tmp_path / "cut", small_params(format=format), backbone=backbone)
    assert backbone.seen == 0
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def killed_at_the_end(path: Path, ignore_errors: bool = False) -> None:
    """Stands for shutil.rmtree in a run that is killed when all that is left is to remove its work."""
    if path.name != "replaced":
        raise Interrupted


def test_killed_between_renaming_and_removing_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = small_params(), small_params(dtype="float32")
    small_extraction(tmp_path, second)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stores.workspace.shutil.rmtree", killed_at_the_end)
        with pytest.raises(Interrupted):
            small_extraction(tmp_path, first)
    assert list((tmp_path / "work").rglob("replaced"))
    whole = tree(tmp_path / "features")
    small_extraction(tmp_path, second)
    small_extraction(tmp_path, first)  # in the work of the killed run, which has replaced something before
    assert tree(tmp_path / "features") == whole
    assert not list((tmp_path / "work/extract").iterdir())


def test_work_left_of_a_store_in_place_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stores.workspace.shutil.rmtree", killed_at_the_end)
        with pytest.raises(Interrupted):
            small_extraction(tmp_path)
    assert list((tmp_path / "work/extract").iterdir())
    backbone = SmallBackbone()
    assert small_extraction(tmp_path, backbone=backbone)
    assert backbone.seen == 0
    assert not list((tmp_path / "work/extract").iterdir())


def test_work_of_other_code_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    with pytest.raises(Interrupted):
        small_extraction(tmp_path, backbone=FailingBackbone(30, Interrupted()))
    monkeypatch.setattr(run, "code_digest", lambda *_: "edited")
    backbone = SmallBackbone()
    small_extraction(tmp_path, backbone=backbone)
    assert backbone.seen == 40
    assert tree(tmp_path / "features") == undisturbed  # a store does not say which code it is from: DVC does


@pytest.mark.parametrize("file", ["backbones/backbone.py", "extraction/compute.py", "stores/encoding.py"])
def test_the_digest_of_the_code_changes_with_each_file_that_decides_numbers(tmp_path: Path, file: str) -> None:
    library = shutil.copytree(job.LIBRARY, tmp_path / "pipeline")
    assert job.code_digest(library=library) == job.code_digest()
    with (library / file).open("a") as source:
        source.write("# edited\n")
    assert job.code_digest(library=library) != job.code_digest()


def test_finished_shards_are_checked_before_they_are_used(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    with pytest.raises(Interrupted):
        small_extraction(tmp_path, backbone=FailingBackbone(30, Interrupted()))
    (shard,) = (tmp_path / "work").rglob("shallow/features.zarr/c.1.0.0.0")
    shard.write_bytes(bytes(shard.stat().st_size))  # what a power cut may leave
    backbone = SmallBackbone()
    small_extraction(tmp_path, backbone=backbone)
    assert tree(tmp_path / "features") == undisturbed
    assert backbone.seen == 40 - 27 + 9


@pytest.mark.parametrize(
    "change",
    [
        {"store": small_params(dtype="float32")},
        {"store": small_params(compression="lz4")},
        {"settings": ExtractParams(precision="bf16", batch_size=3)},
        {"settings": ExtractParams(batch_size=4)},
        {"backbone": SmallBackbone(seed=1)},
        {"data": SmallData(seed=1)},
    ],
    ids=["dtype", "codec", "precision", "batch", "weights", "data"],
)
def test_work_of_another_fingerprint_is_never_mixed_in(tmp_path: Path, change: dict[str, object]) -> None:
    small_extraction(tmp_path / "pure", **change)  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        small_extraction(tmp_path / "mixed", backbone=FailingBackbone(30, Interrupted()))
    small_extraction(tmp_path / "mixed", **change)  # type: ignore[arg-type]
    assert tree(tmp_path / "mixed/features") == tree(tmp_path / "pure/features")
    assert len(list((tmp_path / "mixed/work/extract").iterdir())) == 1  # the other one waits for its return


def test_a_finished_store_replaces_another(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    small_extraction(tmp_path, small_params(dtype="float32"))
    (tmp_path / "features/small/stray").mkdir()
    small_extraction(tmp_path)
    assert tree(tmp_path / "features") == undisturbed


def test_clean_removes_leftovers(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small_extraction(tmp_path, backbone=FailingBackbone(30, Interrupted()))
    assert clean(tmp_path / "work", ("other",)) == []
    (removed,) = clean(tmp_path / "work")
    assert removed.name.startswith("small-")
    assert list((tmp_path / "work/extract").iterdir()) == []
    assert clean(tmp_path / "nowhere") == []


def test_no_reader_gets_hold_of_unfinished_work(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small_extraction(tmp_path, backbone=FailingBackbone(30, Interrupted()))
    with pytest.raises(StoreError, match="there is no feature store here"):
        open_store(tmp_path / "features/small/deep")
    (unfinished,) = (tmp_path / "work").rglob("deep")
    with pytest.raises(StoreError, match=r"has no manifest.json, so its extraction never finished"):
        open_store(unfinished)


# Several processes


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_make_the_same_bytes_as_one_process(tmp_path: Path, format: str, order: tuple[int, ...]) -> None:
    store = small_params(format=format)
    small_extraction(tmp_path / "one", store)
    complete = [small_extraction(tmp_path / "parts", store, part=(index, 3)) for index in order]
    assert complete == [False, False, True]
    assert tree(tmp_path / "parts") == tree(tmp_path / "one")


def test_more_parts_than_shards(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    assert [small_extraction(tmp_path, part=(index, 8)) for index in range(8)].count(True) >= 1
    assert tree(tmp_path / "features") == undisturbed


HOLDER = """
import sys
from pathlib import Path
from pipeline.stores.workspace import Workspace
space = Workspace(Path("work"), "small", {"facts": 1})
with space.lock(range(int(sys.argv[1]), int(sys.argv[2]))):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the shards 0 to 2."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "0", "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    space = Workspace(Path("work"), "small", {"facts": 1})
    for shards in (range(5), range(2, 3)):
        with pytest.raises(StoreError) as error, space.lock(shards):
            pass
        assert str(error.value) == (
            f"another process is extracting small in {space.path}; wait for it, or give each process shards of its own "
            "(--shards 0/2 and --shards 1/2)"
        )
    for shards in (range(3, 5), range(0)):  # shards that it does not hold
        with space.lock(shards):
            pass
    assert clean(Path("work")) == []  # in use: not a leftover
    holder.kill()  # kill -9: nothing is cleaned up, the lock ends all the same
    holder.wait()
    with space.lock(range(5)):
        pass
    assert clean(Path("work")) == [space.path]


# Limits


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "free_bytes", lambda path: 1000)
    backbone = SmallBackbone()
    with pytest.raises(StoreError) as error:
        small_extraction(Path(), backbone=backbone)
    assert str(error.value) == (
        "the features of small need 0.00 GB and the disk that holds work has 0.00 GB free; free some space, list fewer "
        "layers, or choose store.dtype: int8 or store.compression: zstd"
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
    """Has memory for `room` images at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.sizes = room, []

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().forward(images)


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path: Path) -> None:
    settings = ExtractParams(batch_size=9)
    small_extraction(tmp_path / "roomy", settings=settings)
    backbone = HungryBackbone(room=2)
    small_extraction(tmp_path / "tight", settings=settings, backbone=backbone)
    assert backbone.sizes[:8] == [9, 5, 3, 2, 2, 2, 2, 1]  # halved until it fits, then kept
    assert max(backbone.sizes[4:]) == 2
    assert tree(tmp_path / "tight") == tree(tmp_path / "roomy")


def test_no_memory_for_one_image(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        small_extraction(tmp_path, backbone=HungryBackbone(room=0))
    assert str(error.value) == (
        "cpu has no room for one image of 16 pixels in small; free its memory, or use --device cpu"
    )


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
    run.write_nothing(tmp_path / "features/none")
    cached = tmp_path / "cached"
    os.link(tmp_path / "features/none/none/unused", cached)  # as DVC does where links are its way
    cached.write_text("what the cache holds")
    run.write_nothing(tmp_path / "features/none")
    assert cached.read_text() == "what the cache holds"
    cached.unlink()
    assert list(tree(tmp_path)) == ["features/none/none/unused"]

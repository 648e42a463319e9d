"""The same bytes every time: extracted again, resumed after any interruption, never mixed with other work."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from shipped import extract_params
from small_stores import SmallBackbone, SmallData, small_extraction, small_params, tree

from pipeline.core.code import files
from pipeline.core.errors import StoreError
from pipeline.extraction import run
from pipeline.extraction.workspace import Workspace, clean
from pipeline.stores.opening import open_store

FORMATS = ["zarr", "hdf5"]


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
        patch.setattr("pipeline.extraction.workspace.shutil.rmtree", killed_at_the_end)
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
        patch.setattr("pipeline.extraction.workspace.shutil.rmtree", killed_at_the_end)
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
    monkeypatch.setattr(run, "digest", lambda *_, **__: "edited")
    backbone = SmallBackbone()
    small_extraction(tmp_path, backbone=backbone)
    assert backbone.seen == 40
    assert tree(tmp_path / "features") == undisturbed  # a store does not say which code it is from: DVC does


@pytest.mark.parametrize(
    "file", ["backbones/backbone.py", "extraction/compute.py", "extraction/moments.py", "stores/encoding.py"]
)
def test_each_file_that_decides_numbers_is_among_its_code(file: str) -> None:
    assert Path("pipeline", file) in files(*run.NUMBERS, "pipeline.backbones.backbone")


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
        {"settings": extract_params(precision="bf16", batch_size=3)},
        {"settings": extract_params(batch_size=4)},
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

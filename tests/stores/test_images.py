"""Prepared data opened for reading: the crops are the pixels that the tables say, and damage is noticed."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from messages import says
from photo_trees import save, save_all, small_params
from PIL import Image, ImageOps

from pipeline.core.errors import DataError
from pipeline.data.preparation import shards
from pipeline.data.preparation.run import prepare
from pipeline.stores.prepared import PreparedData

REMEDY = "prepare the data again with `dvc repro -f prepare` or `python -m stages prepare`"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 photographs in several shards."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 7 * 48 * 48 * 3)
    save_all(tmp_path / "photographs", (f"{i:02d}.png" for i in range(24)))
    params = small_params(
        "folder", tmp_path / "photographs", "prepare.views=3", "datasets.folder.validation_fraction=0.25"
    )
    prepare(params, tmp_path / "prepared", tmp_path / "work")
    return tmp_path / "prepared"


def test_rows_are_train_validation_test_then_image_then_view(root: Path) -> None:
    data = PreparedData.open(root)
    train, validation, test = data.rows("train"), data.rows("validation"), data.rows("test")
    assert (len(train), len(validation), len(test), len(data)) == (16 * 3, 6, 2, 16 * 3 + 6 + 2)
    assert np.array_equal(np.concatenate([train, validation, test]), np.arange(len(data)))
    for rows, views in ((train, 3), (validation, 1), (test, 1)):
        images = data.image[rows].reshape(-1, views)
        assert (images == images[:, :1]).all()
        assert (np.diff(images[:, 0]) > 0).all()
    held_out = np.concatenate([validation, test])
    assert (data.top[held_out] == 8).all()
    assert (data.left[held_out] == 8).all()
    assert not data.flip[held_out].any()
    assert len(data.image_ids) == 24
    assert not set(data.image[train]) & set(data.image[held_out])


def test_views_cut_the_same_pixels_for_every_corner_and_flip(root: Path) -> None:
    """Against the photograph itself, cut and mirrored by Pillow: the reference knows nothing of the tables' reader."""
    data = PreparedData.open(root)
    corners = [(top, left) for top in (0, 7, 16) for left in (0, 5, 16)]
    cases = [(top, left, flip) for top, left in corners for flip in (False, True)]
    rows = np.arange(len(cases))
    data.top[rows], data.left[rows], data.flip[rows] = np.array(cases).T
    crops = data.crops(rows)
    for row, (top, left, flip) in enumerate(cases):
        photograph = Image.open(root.parent / "photographs" / data.image_ids[data.image[row]])
        stored = photograph.resize((48, 48), Image.Resampling.BICUBIC)
        expected = stored.crop((left, top, left + 32, top + 32))
        expected = ImageOps.mirror(expected) if flip else expected
        assert np.array_equal(crops[row], np.asarray(expected)), (top, left, flip)


def test_the_tables_on_disk_say_the_same(root: Path) -> None:
    """With nothing but csv and NumPy a reader gets the same crops."""
    data = PreparedData.open(root)
    pixels = np.concatenate([np.load(path) for path in sorted((root / "images").iterdir())])
    views = list(csv.DictReader((root / "views.csv").open(newline="")))
    images = list(csv.DictReader((root / "images.csv").open(newline="", encoding="utf-8")))
    assert [image["id"] for image in images] == list(data.image_ids)
    assert [image["photograph"] for image in images] == list(data.photographs)
    assert len(sorted((root / "images").iterdir())) == 4
    for view, crop in zip(views, data.crops(np.arange(len(data))), strict=True):
        image, top, left = (int(view[name]) for name in ("image", "top", "left"))
        expected = pixels[image, top : top + 32, left : left + 32]
        assert np.array_equal(crop, expected[:, ::-1] if view["flip"] == "1" else expected)
        assert view["split"] == images[image]["split"]


def test_crops_fill_the_given_array_in_the_given_order(root: Path) -> None:
    data = PreparedData.open(root)
    rows = np.array([55, 0, 17, 0, 30])
    out = np.zeros((5, 32, 32, 3), np.uint8)
    assert data.crops(rows, out) is out
    assert np.array_equal(out, data.crops(np.arange(len(data)))[rows])
    assert out.dtype == np.uint8


def test_many_threads_read_what_one_reads(root: Path) -> None:
    expected = PreparedData.open(root).crops(np.arange(56))
    data = PreparedData.open(root)  # shards are opened by whoever comes first
    draws = [np.random.default_rng(i).integers(0, 56, 40) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for rows, crops in zip(draws, pool.map(data.crops, draws), strict=True):
            assert np.array_equal(crops, expected[rows])


def test_summary(root: Path) -> None:
    assert PreparedData.open(root).summary() == "folder: 16 train, 6 validation, 2 test images; 56 views of 32×32"


def test_unfinished_data_is_refused(root: Path) -> None:
    (root / "manifest.json").unlink()
    with pytest.raises(DataError) as error:
        PreparedData.open(root)
    assert str(error.value) == f"{root} holds no finished prepared data (manifest.json is missing); {REMEDY}"


def test_a_missing_or_shortened_shard_is_noticed_on_opening(root: Path) -> None:
    shard = root / "images/00001.npy"
    whole = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError) as error:
        PreparedData.open(root)
    assert str(error.value) == f"{shard} has {whole - 1:,} of {whole:,} bytes; {REMEDY}"
    shard.unlink()
    with pytest.raises(DataError, match="has 0 of"):
        PreparedData.open(root)


def test_a_flipped_byte_is_noticed_on_reading(root: Path) -> None:
    shard = root / "images/00002.npy"
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 1
    shard.write_bytes(content)
    data = PreparedData.open(root)
    assert data.crops(np.flatnonzero(data.image < 14)).any()
    with pytest.raises(DataError) as error:
        data.crops(np.flatnonzero(data.image >= 14))
    says(error.value, f"{shard} is damaged", "checksum", REMEDY)


def test_edited_tables_and_manifests_are_refused(root: Path) -> None:
    views = root / "views.csv"
    original = views.read_bytes()
    views.write_bytes(original.replace(b"test", b"train"))
    with pytest.raises(DataError) as error:
        PreparedData.open(root)
    assert str(error.value) == f"{views} is missing or was changed after it was written; {REMEDY}"
    views.write_bytes(original)
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(DataError, match=r"manifest.json has format 99, this version reads 1; "):
        PreparedData.open(root)
    (root / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json is damaged \(not valid JSON\); "):
        PreparedData.open(root)


def test_odd_names_survive_the_tables(tmp_path: Path) -> None:
    names = ["a,b.png", 'quo"te.png', "日本.png", "line\u2028separator.png", "plain.png", "new\nline.png"]
    save_all(tmp_path / "photographs", names)
    save(tmp_path / "photographs/test/x.png", 50)
    params = small_params(
        "folder", tmp_path / "photographs", "datasets.folder.test=test", "datasets.folder.validation_fraction=0.3"
    )
    prepare(params, tmp_path / "prepared", tmp_path / "work")
    assert PreparedData.open(tmp_path / "prepared").image_ids == tuple(sorted([*names, "test/x.png"]))

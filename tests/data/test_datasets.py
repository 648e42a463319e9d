"""Which photographs each data set lists: at the real layouts, and with what people really have in such folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from messages import says
from photo_trees import celeba_hq, dataset, div2k, ids, imagenet_val, save
from PIL import Image

from pipeline.core.errors import DataError, ParamsError
from pipeline.data.datasets import sample
from pipeline.data.preparation.dataset import DATASETS
from pipeline.data.preparation.splits import assign_splits


def test_every_data_set_is_named_after_its_file() -> None:
    assert {"celeba_hq", "div2k", "folder", "imagenet_val", "sample"} <= set(DATASETS.names())
    assert all(DATASETS.get(name).name == name and DATASETS.get(name).licence for name in DATASETS.names())


# --- sample


def test_sample_has_the_promised_crops_split_by_photograph() -> None:
    photographs = dataset("sample").photographs()
    crops = Counter()
    for photograph in photographs:
        crops[photograph.split] += len(photograph.image_ids)
    assert crops == {"train": 60, "validation": 12, "test": 20}
    scenes = {
        photograph.scene: {p.split for p in photographs if p.scene == photograph.scene} for photograph in photographs
    }
    assert all(len(splits) == 1 for splits in scenes.values())
    assert [p.id for p in photographs if p.scene == "motorcycle"] == ["motorcycle_left", "motorcycle_right"]


def test_sample_crops_are_different_squares_inside_colour_photographs() -> None:
    for photograph in dataset("sample").photographs():
        with Image.open(photograph.path) as image:
            width, height = image.size
            assert image.mode == "RGB"
        assert len(set(photograph.boxes)) == len(photograph.boxes)
        for box in photograph.boxes:
            assert 0 <= box.top <= height - box.edge
            assert 0 <= box.left <= width - box.edge
            assert box.edge >= 256


def test_sample_refuses_another_version_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = save(tmp_path / "astronaut.png", 1)
    found = hashlib.sha256(changed.read_bytes()).hexdigest()[:12]
    monkeypatch.setattr(sample, "_installed", lambda file: changed)
    with pytest.raises(DataError) as error:
        dataset("sample").photographs()
    says(error.value, "skimage/data/astronaut.png", found, "88431cd9653c…", "requirements.txt")


def test_sample_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "find_spec", lambda package: None)
    with pytest.raises(DataError, match=r"^sample: skimage/data/astronaut.png is not installed; install the packages"):
        dataset("sample").photographs()


# --- div2k, imagenet_val, celeba_hq


def test_div2k(tmp_path: Path) -> None:
    data = dataset("div2k", root=div2k(tmp_path), validation_fraction=0.2)
    photographs = data.photographs()
    assert [photographs[i].id for i in (0, 799, 800, 899)] == [
        "DIV2K_train_HR/0001.png",
        "DIV2K_train_HR/0800.png",
        "DIV2K_valid_HR/0801.png",
        "DIV2K_valid_HR/0900.png",
    ]
    assert Counter(photograph.split for photograph in photographs) == {None: 800, "test": 100}
    splits = assign_splits(ids(photographs[:800]), data.fractions(), 42)
    assert Counter(splits.values()) == {"train": 640, "validation": 160}


def test_a_missing_root_shows_the_tree_and_how_to_get_it(tmp_path: Path) -> None:
    root = tmp_path / "DIV2K"
    with pytest.raises(DataError) as error:
        dataset("div2k", root=root).photographs()
    says(
        error.value,
        f"datasets.div2k.root = '{root}'",
        "not a folder",
        f"{root}/DIV2K_train_HR/0001.png … 0800.png",
        f"{root}/DIV2K_valid_HR/0801.png … 0900.png",
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
    )
    div2k(root, 2, 2)
    (root / "DIV2K_valid_HR").rename(root / "valid")
    with pytest.raises(DataError, match=f"'{root}/DIV2K_valid_HR' is not a folder; expected:"):
        dataset("div2k", root=root).photographs()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "imagenet_val",
            [
                "ILSVRC2012_val_00000001.JPEG",
                "n01440764/",
                "image-net.org",
                "tar -xf",
                "set prepare.non_rgb to convert",
            ],
        ),
        ("celeba_hq", ["0.jpg … 29999.jpg", "CelebAMask-HQ"]),
        ("folder", ["train/…", "datasets.folder.root"]),
    ],
)
def test_missing_roots_of_the_others(tmp_path: Path, name: str, words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        dataset(name, root=tmp_path / "nowhere").photographs()
    assert all(word in str(error.value) for word in words)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError) as error:
        dataset("celeba_hq", root=tmp_path).photographs()
    says(error.value, f"datasets.celeba_hq.root: '{tmp_path}'", "no photographs", ".jpg", ".webp")


def test_imagenet_flat_and_in_class_folders_give_the_same_subset(tmp_path: Path) -> None:
    flat = dataset("imagenet_val", root=imagenet_val(tmp_path / "flat", 200), images=60).photographs()
    sorted_ = dataset("imagenet_val", root=imagenet_val(tmp_path / "classes", 200, classes=20), images=60).photographs()
    assert len(flat) == len(sorted_) == 60
    assert {p.path.name for p in flat} == {p.path.name for p in sorted_}
    assert any("/" in p.id for p in sorted_)


def test_subsets_are_seeded_and_nested(tmp_path: Path) -> None:
    root = imagenet_val(tmp_path, 120)

    def names(count: int | None, seed: int = 42) -> set[str]:
        return set(ids(dataset("imagenet_val", seed, root=root, images=count).photographs()))

    assert len(names(None)) == 120
    assert names(20) < names(50)
    assert names(20) == names(20)
    assert names(20) != names(20, seed=7)
    with pytest.raises(DataError, match=r"^datasets.imagenet_val.images = 121, but only 120 photographs can be found;"):
        names(121)


@pytest.mark.parametrize("digits", [1, 5])
def test_celeba_hq(tmp_path: Path, digits: int) -> None:
    data = dataset("celeba_hq", root=celeba_hq(tmp_path, 150, digits), validation_fraction=0.1, test_fraction=0.2)
    photographs = data.photographs()
    assert len(photographs) == 150
    assert {p.split for p in photographs} == {None}
    assert Counter(assign_splits(ids(photographs), data.fractions(), 1).values()) == {
        "train": 105,
        "validation": 15,
        "test": 30,
    }


def test_more_photographs_than_the_data_set_has_are_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CelebAMask-HQ's folder above: masks lie beside the faces, and a subset would be drawn from both."""
    monkeypatch.setattr(DATASETS.get("celeba_hq"), "expected", 20)
    celeba_hq(tmp_path / "CelebA-HQ-img", 20)
    save(tmp_path / "CelebAMask-HQ-mask-anno/0/00000_hair.png", 100)
    assert len(dataset("celeba_hq", root=tmp_path / "CelebA-HQ-img").photographs()) == 20
    with pytest.raises(DataError) as error:
        dataset("celeba_hq", root=tmp_path, images=5).photographs()
    for word in ("datasets.celeba_hq.root", "1 picture not of", "0.jpg … 29999.jpg", "0/00000_hair.png", "move them"):
        assert word in str(error.value)
    monkeypatch.setattr(DATASETS.get("imagenet_val"), "expected", 3)
    with pytest.raises(DataError, match="holds 4 photographs, more than the 3 of the data set"):
        dataset("imagenet_val", root=imagenet_val(tmp_path / "val", 4)).photographs()


def test_div2k_has_no_more_than_a_hundred_test_photographs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"DIV2K_valid_HR' holds 1 picture not of the data set(.|\n)*0901.png"):
        dataset("div2k", root=div2k(tmp_path, 1, 101)).photographs()


@pytest.mark.parametrize(
    ("name", "tree", "stray"),
    [
        ("div2k", lambda root: div2k(root, 2, 2), "DIV2K_train_HR/0001x2.png"),
        ("div2k", lambda root: div2k(root, 2, 2), "DIV2K_train_HR/0801.png"),
        ("celeba_hq", lambda root: celeba_hq(root, 3), "00000_hair.png"),
        ("celeba_hq", lambda root: celeba_hq(root, 3), "30000.jpg"),
        ("imagenet_val", lambda root: imagenet_val(root, 3), "n01440764/n01440764_10026.JPEG"),
    ],
)
def test_files_that_are_not_of_the_data_set_are_listed_not_used(
    tmp_path: Path, name: str, tree: Callable[[Path], Path], stray: str
) -> None:
    tree(tmp_path)
    assert dataset(name, root=tmp_path).photographs()
    save(tmp_path / stray, 99)
    with pytest.raises(DataError) as error:
        dataset(name, root=tmp_path).photographs()
    for word in (f"datasets.{name}.root", "1 picture not of", Path(stray).name, "move them", "dataset: folder"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "tree", "first", "second"),
    [
        ("celeba_hq", lambda root: celeba_hq(root, 3), "0.jpg", "00000.jpg"),
        ("celeba_hq", lambda root: celeba_hq(root, 3), "2.jpg", "2.png"),
        ("div2k", lambda root: div2k(root, 2, 2), "DIV2K_train_HR/0002.png", "DIV2K_train_HR/again/0002.jpg"),
        (
            "imagenet_val",
            lambda root: imagenet_val(root, 3),
            "ILSVRC2012_val_00000001.JPEG",
            "n01440764/ILSVRC2012_val_00000001.JPEG",
        ),
    ],
)
def test_a_number_of_the_data_set_is_one_photograph(
    tmp_path: Path, name: str, tree: Callable[[Path], Path], first: str, second: str
) -> None:
    """Two downloads in one folder, of which each name alone would do: pixels differ, so no copy would be found."""
    tree(tmp_path)
    save(tmp_path / second, 99)
    with pytest.raises(DataError) as error:
        dataset(name, root=tmp_path).photographs()
    told = str(error.value)
    assert f"datasets.{name}.root" in told
    assert "1 photograph of the data set more than once" in told
    assert "move all but one" in told
    assert told.splitlines()[1:] == [f"  {Path(first).name} and {second.removeprefix('DIV2K_train_HR/')}"]
    (tmp_path / first).unlink()
    assert dataset(name, root=tmp_path).photographs()


# --- options


def test_options_are_held_against_their_rules() -> None:
    with pytest.raises(ParamsError) as error:
        dataset("folder", root="x", validation_fraction=0.5, test_fraction=0.5)
    says(error.value, "datasets.folder.test_fraction = 0.5", "validation_fraction", "100%")
    for name in ("folder", "celeba_hq"):  # with the test fraction that it has by default
        with pytest.raises(ParamsError, match=rf"datasets.{name}.test_fraction = 0.1: must leave .* it takes 100%$"):
            dataset(name, root="x", validation_fraction=0.9)
    with pytest.raises(ParamsError, match=r"^params.yaml: datasets.div2k.validation_fraction = 1.0: must be below 1"):
        dataset("div2k", root="x", validation_fraction=1.0)
    with pytest.raises(ParamsError, match=r"^params.yaml: datasets.imagenet_val.images = 0: must be at least 1$"):
        dataset("imagenet_val", root="x", images=0)
    with pytest.raises(ParamsError, match=r"unknown key 'datasets.folder.vaildation' \(did you mean 'validation'\?\)"):
        dataset("folder", root="x", vaildation="val")

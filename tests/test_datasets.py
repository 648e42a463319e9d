"""Which photographs each data set lists: at the real layouts, and with what people really have in such folders."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from photo_trees import celeba_hq, div2k, imagenet_val, picture, save, save_all
from PIL import Image

from pipeline.datasets import DATASETS, Dataset, Photograph, sample
from pipeline.errors import DataError, ParamsError
from pipeline.section import parse_section
from pipeline.splits import assign_splits


def dataset(name: str, seed: int = 42, **options: object) -> Dataset:
    schema = DATASETS.get(name)
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return schema(parse_section(schema.Options, options, f"datasets.{name}"), seed)


def ids(photographs: list[Photograph]) -> list[str]:
    return [photograph.id for photograph in photographs]


def test_every_data_set_is_named_after_its_file() -> None:
    assert DATASETS.names() == ("celeba_hq", "div2k", "folder", "imagenet_val", "sample")
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
    assert str(error.value) == (
        f"sample: skimage/data/astronaut.png has SHA-256 {found}… instead of 88431cd9653c…, so the sample would not be "
        "the same everywhere; reinstall the versions pinned in requirements.txt"
    )


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
    assert str(error.value) == (
        f"datasets.div2k.root = '{root}': '{root}' is not a folder; expected is:\n"
        f"  {root}/DIV2K_train_HR/0001.png … 0800.png\n"
        f"  {root}/DIV2K_valid_HR/0801.png … 0900.png\n"
        "fetch DIV2K_train_HR.zip and DIV2K_valid_HR.zip from https://data.vision.ee.ethz.ch/cvl/DIV2K/ and unpack "
        "them there"
    )
    div2k(root, 2, 2)
    (root / "DIV2K_valid_HR").rename(root / "valid")
    with pytest.raises(DataError, match=f"'{root}/DIV2K_valid_HR' is not a folder; expected is:"):
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
    assert str(error.value) == (
        f"datasets.celeba_hq.root: '{tmp_path}' holds no photographs; put some there (.bmp, .gif, .jp2, .jpeg, .jpg, "
        ".png, .ppm, .tif, .tiff, .webp, or known by their content)"
    )


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
    with pytest.raises(DataError, match=r"^datasets.imagenet_val.images = 121, but only 120 photographs are there; "):
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


# --- listing


def test_listing_takes_photographs_by_ending_or_content(tmp_path: Path) -> None:
    save(tmp_path / "a.JPEG", 1)
    save(tmp_path / "deep/er/b.Png", 2)
    save(tmp_path / "c.webp", 3).rename(tmp_path / "c")
    save(tmp_path / "d.jpg", 4).rename(tmp_path / "d.dat")
    (tmp_path / "really_text.jpg").write_text("no image, to be found when it is decoded")
    (tmp_path / "README.txt").write_text("left alone")
    save(tmp_path / ".hidden.jpg", 5)
    save(tmp_path / "__MACOSX/._a.JPEG.png", 6)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = ids(dataset("folder", root=tmp_path).photographs())
    assert found == ["a.JPEG", "c", "d.dat", "deep/er/b.Png", "gone.png", "really_text.jpg"]


def test_linked_folders_are_followed_and_never_twice(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/b.jpg", 1)
    save(tmp_path / "root/a.jpg", 2)
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "root")
    assert ids(dataset("folder", root=tmp_path / "root").photographs()) == ["a.jpg", "linked/b.jpg"]


def test_names_that_are_not_ascii_or_not_even_utf8(tmp_path: Path) -> None:
    names = ["Ärger.jpg", "日本/写真.jpg", unicodedata.normalize("NFD", "é.jpg"), "with, comma.jpg", 'quo"te.jpg']
    save_all(tmp_path, names)
    os.rename(save(tmp_path / "latin.jpg", 9), os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    photographs = dataset("folder", root=tmp_path).photographs()
    assert set(ids(photographs)) == {*names, "caf\\xe9.jpg"}
    for photograph in photographs:
        photograph.id.encode("utf-8")
        assert photograph.path.is_file()


# --- folder


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """20 for training, 10 to test on and 3 beside them."""
    save_all(tmp_path / "train", (f"{i}.jpg" for i in range(20)))
    save_all(tmp_path / "val", (f"{i}.jpg" for i in range(10)), first_seed=100)
    save_all(tmp_path / "more", (f"{i}.jpg" for i in range(3)), first_seed=200)
    return tmp_path


def splits(root: Path, **options: object) -> tuple[Counter[str | None], dict[str, float]]:
    data = dataset("folder", root=root, validation_fraction=0.25, test_fraction=0.1, **options)
    return Counter(photograph.split for photograph in data.photographs()), dict(data.fractions())


def test_folders_and_fractions(photographs: Path) -> None:
    assert splits(photographs) == ({None: 33}, {"validation": 0.25, "test": 0.1})
    assert splits(photographs, train="train", test="val") == ({None: 20, "test": 10}, {"validation": 0.25})
    assert splits(photographs, test="val") == ({None: 23, "test": 10}, {"validation": 0.25})
    assert splits(photographs, train="train") == ({None: 20}, {"validation": 0.25, "test": 0.1})
    everything = {"train": "train", "validation": "more", "test": "./train/../val"}
    assert splits(photographs, **everything) == ({"train": 20, "validation": 3, "test": 10}, {})
    assert splits(photographs, validation="more", test="val") == ({"train": 20, "validation": 3, "test": 10}, {})


def test_folders_are_checked(photographs: Path) -> None:
    root = photographs
    with pytest.raises(DataError) as error:
        splits(root, test="vol")
    assert str(error.value) == (
        f"datasets.folder.test = 'vol': '{root}/vol' is not a folder; create it or set datasets.folder.test to null"
    )
    with pytest.raises(ParamsError) as outside:
        splits(root, test="../val")
    assert str(outside.value) == (
        f"params.yaml: datasets.folder.test = '../val' must be a folder below datasets.folder.root ({root})"
    )
    with pytest.raises(ParamsError) as overlap:
        splits(root, train="train", test="train")
    assert str(overlap.value) == (
        f"params.yaml: datasets.folder.test ('{root}/train') and datasets.folder.train ('{root}/train') overlap; a "
        "photograph can be in one split only"
    )


def test_a_named_folder_may_be_a_link(photographs: Path, tmp_path: Path) -> None:
    (photographs / "held_out").symlink_to(save_all(tmp_path / "disk", ["x.jpg"], first_seed=300))
    assert splits(photographs, train="train", test="held_out")[0] == {None: 20, "test": 1}


def test_options_are_held_against_their_rules() -> None:
    with pytest.raises(ParamsError) as error:
        dataset("folder", root="x", validation_fraction=0.5, test_fraction=0.5)
    assert str(error.value) == (
        "params.yaml: datasets.folder.test_fraction = 0.5: must leave photographs for training, but with "
        "validation_fraction it takes 100%"
    )
    with pytest.raises(ParamsError, match=r"^params.yaml: datasets.div2k.validation_fraction = 1.0: must be below 1"):
        dataset("div2k", root="x", validation_fraction=1.0)
    with pytest.raises(ParamsError, match=r"^params.yaml: datasets.imagenet_val.images = 0: must be at least 1$"):
        dataset("imagenet_val", root="x", images=0)
    with pytest.raises(ParamsError, match=r"unknown key 'datasets.folder.vaildation' \(did you mean 'validation'\?\)"):
        dataset("folder", root="x", vaildation="val")


# --- splits


def test_splits_depend_on_the_seed_and_the_keys_alone() -> None:
    keys = [f"{i}" for i in range(100)]
    first = assign_splits(keys, {"validation": 0.1, "test": 0.2}, 42)
    assert first == assign_splits(reversed(keys), {"validation": 0.1, "test": 0.2}, 42)
    assert first != assign_splits(keys, {"validation": 0.1, "test": 0.2}, 43)
    more = assign_splits([*keys, "another"], {"validation": 0.1, "test": 0.2}, 42)
    assert sum(first[key] != more[key] for key in keys) <= 2  # only at the boundaries


def test_splits_are_not_sorted_by_name() -> None:
    keys = [f"{i:03d}" for i in range(300)]
    test = [int(key) for key, split in assign_splits(keys, {"test": 0.5}, 0).items() if split == "test"]
    assert 130 < np.mean(test) < 170
    assert not np.array_equal(picture(0), picture(1))

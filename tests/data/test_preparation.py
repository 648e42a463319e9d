"""prepare as a whole: the real data sets, splits, duplicates, views, and what is recorded."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from messages import says
from photo_trees import celeba_hq, div2k, imagenet_val, save, save_all, small_params
from PIL import Image
from small_preparation import run, split_of

from pipeline.core.errors import DataError, ParamsError
from pipeline.core.params import load_params
from pipeline.data.preparation import shards
from pipeline.data.preparation.dataset import Photograph
from pipeline.data.preparation.run import prepare
from pipeline.data.preparation.splitting import Good, image_table
from pipeline.data.preparation.views import draw_views
from pipeline.stores.prepared import PreparedData

TESTS = Path(__file__).parents[1] / "support"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return save_all(tmp_path / "photographs", (f"{i:02d}.png" for i in range(30)))


# --- the real data sets


def test_div2k_is_640_160_100(tmp_path: Path) -> None:
    data = run(tmp_path, "div2k", div2k(tmp_path / "DIV2K"))
    assert Counter(split_of(data).values()) == {"train": 640, "validation": 160, "test": 100}
    assert {file for file, split in split_of(data).items() if split == "test"} == {
        f"DIV2K_valid_HR/{i:04d}.png" for i in range(801, 901)
    }
    assert data.summary() == "div2k: 640 train, 160 validation, 100 test images; 1,540 views of 32×32"
    assert split_of(data) != split_of(run(tmp_path, "div2k", tmp_path / "DIV2K", "seed=43", name="other"))


def test_imagenet_val_with_the_files_it_really_has(tmp_path: Path) -> None:
    """Grayscale and CMYK photographs are in the real one; published work converts them."""
    root = imagenet_val(tmp_path / "val", 200, classes=10)
    odd = dict(zip(sorted(root.rglob("*.JPEG")), ["L", "L", "L", "CMYK"], strict=False))
    for seed, (path, mode) in enumerate(odd.items()):
        save(path, 500 + seed, mode)
    with pytest.raises(
        DataError, match=r"^4 of 200 photographs cannot be used; repair or remove them, set prepare.non"
    ):
        run(tmp_path, "imagenet_val", root)
    data = run(tmp_path, "imagenet_val", root, "prepare.non_rgb=convert")
    assert data.manifest["modes"] == {"CMYK": 1, "L": 3, "RGB": 196}
    assert Counter(split_of(data).values()) == {"train": 160, "validation": 20, "test": 20}
    assert data.summary().endswith("; 200 of the data set's 50,000 photographs")


def test_imagenet_splits_are_the_same_flat_and_in_class_folders(tmp_path: Path) -> None:
    flat = run(tmp_path, "imagenet_val", imagenet_val(tmp_path / "flat", 150), name="a")
    classes = run(tmp_path, "imagenet_val", imagenet_val(tmp_path / "classes", 150, classes=7), name="b")
    assert split_of(flat) == {Path(file).name: split for file, split in split_of(classes).items()}


def test_celeba_hq_subset(tmp_path: Path) -> None:
    data = run(tmp_path, "celeba_hq", celeba_hq(tmp_path / "CelebA-HQ-img", 200), "datasets.celeba_hq.images=100")
    assert Counter(split_of(data).values()) == {"train": 80, "validation": 10, "test": 10}


def test_sample_at_its_defaults(tmp_path: Path) -> None:
    params = load_params(TESTS.parents[1] / "params.yaml", ("dataset=sample",))
    prepare(params, tmp_path / "prepared", tmp_path / "work")
    data = PreparedData.open(tmp_path / "prepared")
    assert data.summary() == "sample: 60 train, 12 validation, 20 test images; 152 views of 224×224"
    astronaut = np.asarray(Image.open(data_file("skimage/data/astronaut.png")))
    number = data.image_ids.index("astronaut@0,256,256")
    assert np.array_equal(np.load(tmp_path / "prepared/images/00000.npy")[number], astronaut[:256, 256:])
    crops = data.crops(np.arange(len(data)))
    assert len({crop.tobytes() for crop in crops}) == len(crops)


def data_file(name: str) -> Path:
    from pipeline.data.datasets.sample import _installed

    return _installed(name)


# --- splits, duplicates, views


def test_splits_and_views_do_not_depend_on_listing_order_or_names(tmp_path: Path, photographs: Path) -> None:
    first = run(tmp_path, "folder", photographs)
    for i in range(30):
        (photographs / f"{i:02d}.png").rename(photographs / f"renamed{99 - i}.png")
    second = run(tmp_path, "folder", photographs, name="second")
    assert {f"renamed{99 - int(file[:2])}.png": split for file, split in split_of(first).items()} == split_of(second)
    assert {crop.tobytes() for crop in first.crops(np.arange(len(first)))} == {
        crop.tobytes() for crop in second.crops(np.arange(len(second)))
    }


def test_views_of_an_image_stay_when_others_are_added(tmp_path: Path, photographs: Path) -> None:
    def views(data: PreparedData) -> dict[str, set[tuple[int, int, bool]]]:
        found: dict[str, set[tuple[int, int, bool]]] = {}
        for row in data.rows("train"):
            view = (int(data.top[row]), int(data.left[row]), bool(data.flip[row]))
            found.setdefault(data.image_ids[data.image[row]], set()).add(view)
        return found

    before = views(run(tmp_path, "folder", photographs, "prepare.views=4"))
    save_all(photographs, (f"a{i}.png" for i in range(20)), first_seed=100)
    after = views(run(tmp_path, "folder", photographs, "prepare.views=4", name="more"))
    common = before.keys() & after.keys()
    assert len(common) > 15
    assert all(before[image] == after[image] and len(before[image]) == 4 for image in common)


def test_views_are_uniform_and_different() -> None:
    drawn = [view for image in range(500) for view in draw_views(f"image{image}", 4, 32, seed=1)]
    tops, lefts, flips = (np.array(values) for values in zip(*drawn, strict=True))
    for corner in (tops, lefts):
        counts = np.bincount(corner, minlength=33)
        assert ((counts - 2000 / 33) ** 2 / (2000 / 33)).sum() < 63  # χ² with 32 degrees of freedom, 99.9 %
    assert 900 < flips.sum() < 1100
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.08
    assert set(draw_views("x", 18, 2, seed=1)) == set(draw_views("y", 18, 2, seed=5))  # all there are, each once


def test_more_views_than_crops_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as error:
        small_params("folder", tmp_path, "prepare.crop=48", "prepare.views=3")
    says(
        error.value,
        "prepare.views = 3",
        "only 2 different crops of 48 fit into 48",
        "lower prepare.views or prepare.crop",
    )


def test_copies_never_land_in_two_splits(tmp_path: Path, photographs: Path) -> None:
    for i in range(30):
        shutil.copy(photographs / f"{i:02d}.png", photographs / f"copy{i:02d}.png")
    data = run(tmp_path, "folder", photographs)
    assert set(split_of(data)) == {f"{i:02d}.png" for i in range(30)}
    assert data.manifest["duplicates"] == [
        {"file": f"copy{i:02d}.png", "duplicate_of": f"{i:02d}.png"} for i in range(30)
    ]
    assert data.manifest["images"] == {"train": 24, "validation": 3, "test": 3, "duplicate": 30}
    assert data.summary().endswith("; 30 second copies left out")


def test_the_same_pixels_in_other_files_count_once(tmp_path: Path, photographs: Path) -> None:
    """PNG, WebP without loss, BMP and TIFF of one photograph: other bytes, equal pixels."""
    before = split_of(run(tmp_path, "folder", photographs, name="before"))
    for i, ending in enumerate(("webp", "bmp", "tif", "ppm")):
        options = {"lossless": True} if ending == "webp" else {}
        Image.open(photographs / f"{i:02d}.png").save(photographs / f"copy{i}.{ending}", **options)
    Image.open(photographs / "00.png").save(photographs / "near.jpg", quality=95)  # a near-copy is not found
    data = run(tmp_path, "folder", photographs)
    found = {entry["file"]: entry["duplicate_of"] for entry in data.manifest["duplicates"]}
    assert found == {f"copy{i}.{ending}": f"{i:02d}.png" for i, ending in enumerate(("webp", "bmp", "tif", "ppm"))}
    assert "pixels" in data.manifest["duplicates_share"]
    assert data.manifest["photographs"] == len(split_of(data)) == len(before) + 1


def test_pixels_that_differ_only_outside_what_is_stored_are_no_copies(tmp_path: Path, photographs: Path) -> None:
    array = np.array(Image.open(photographs / "00.png"))
    array[0, 0] ^= 1
    wide = np.concatenate([array, array], axis=1)
    Image.fromarray(wide).save(photographs / "wide.png")
    wide[0, 0] ^= 255
    Image.fromarray(wide).save(photographs / "corner.png")
    assert not run(tmp_path, "folder", photographs, "prepare.resize=short_side").manifest["duplicates"]


def drawn_splits(scenes: dict[str, str]) -> dict[str, str]:
    """Photograph → split of one photograph for each of `scenes`, id → scene, drawn by fractions."""
    good = [
        Good(Photograph(name, Path(name), name, None, scene), hashlib.sha256(name.encode()).hexdigest(), "RGB", name)
        for name, scene in scenes.items()
    ]
    images, _ = image_table(good, {"validation": 0.2, "test": 0.3}, seed=42)
    return {image.id: image.split for image in images}


def test_photographs_of_one_scene_are_drawn_together() -> None:
    names = [f"{i}.png" for i in range(100)]
    splits = drawn_splits({name: f"scene{i // 5}" for i, name in enumerate(names)})
    assert all(len({splits[name] for name in names[i : i + 5]}) == 1 for i in range(0, 100, 5))
    assert Counter(splits.values()) == {"train": 50, "validation": 20, "test": 30}


@pytest.mark.parametrize("scene", ["{}", ""])
def test_photographs_without_a_scene_are_drawn_by_their_content_alone(scene: str) -> None:
    names = [f"{i}.png" for i in range(100)]
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    order = sorted(names, key=lambda name: hashlib.sha256(f"42/{digests[name]}".encode()).digest())
    splits = drawn_splits({name: scene.format(name) for name in names})
    assert [splits[name] for name in order] == ["test"] * 30 + ["validation"] * 20 + ["train"] * 50


@pytest.mark.parametrize(("scene", "shown"), [("", "a.png"), ("stereo pair", "stereo pair")])
def test_the_table_names_what_each_image_shows(scene: str, shown: str) -> None:
    """Intervals resample by this name, so photographs without a scene must not share an empty one."""
    good = [Good(Photograph("a.png", Path("a.png"), "a.png", "test", scene), "0" * 64, "RGB", "pixels")]
    assert [image.photograph for image in image_table(good, {}, seed=42)[0]] == [shown]


def test_the_copy_in_the_test_folder_is_the_one_that_is_kept(tmp_path: Path) -> None:
    save_all(tmp_path / "photographs/train", (f"{i}.png" for i in range(10)))
    save_all(tmp_path / "photographs/val", (f"v{i}.png" for i in range(3)), first_seed=8)
    folders = ("datasets.folder.train=train", "datasets.folder.test=val", "datasets.folder.validation_fraction=0.25")
    data = run(tmp_path, "folder", tmp_path / "photographs", *folders)
    assert data.manifest["duplicates"] == [
        {"file": "train/8.png", "duplicate_of": "val/v0.png"},
        {"file": "train/9.png", "duplicate_of": "val/v1.png"},
    ]
    assert data.manifest["images"] == {"train": 6, "validation": 2, "test": 3, "duplicate": 2}


def test_a_split_without_images_is_said_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "decode", None)
    root = save_all(tmp_path / "photographs", ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError) as error:
        run(tmp_path, "folder", root)
    says(error.value, "no images for validation and test (3 train, 0 validation, 0 test)", "datasets.folder")
    save_all(root, (f"{i}.png" for i in range(20)), first_seed=10)
    with pytest.raises(DataError, match=r"^folder gives no images for validation \(21 train, 0 validation, 2 test\)"):
        run(tmp_path, "folder", root, "datasets.folder.validation_fraction=0.0")


def test_a_split_whose_images_are_all_bad_is_an_error_too(tmp_path: Path) -> None:
    root = save_all(tmp_path / "photographs", (f"{i}.png" for i in range(20)))
    save(root / "val/grey.png", 30, "L")
    with pytest.raises(DataError, match=r"^folder gives no images for validation \(18 train, 0 validation, 2 test\)"):
        run(tmp_path, "folder", root, "datasets.folder.validation=val", "prepare.on_bad_image=skip")


# --- what is recorded


def test_each_image_is_recorded_with_the_checksum_of_its_file(tmp_path: Path, photographs: Path) -> None:
    with (run(tmp_path, "folder", photographs).root / "images.csv").open(newline="", encoding="utf-8") as table:
        recorded = {row["file"]: row["sha256"] for row in csv.DictReader(table)}
    assert recorded == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in photographs.iterdir()}


def test_the_manifest_tells_where_the_data_came_from(tmp_path: Path, photographs: Path) -> None:
    manifest = json.loads((run(tmp_path, "folder", photographs).root / "manifest.json").read_text())
    assert manifest["dataset"] == "folder"
    assert manifest["seed"] == 42
    assert manifest["prepare"]["interpolation"] == "bicubic"
    assert "root" not in manifest["options"]
    assert manifest["licence"]
    assert manifest["pillow"]

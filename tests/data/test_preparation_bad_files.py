"""Files that are no photographs, or no RGB ones: named all at once, or left out and recorded, or converted."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from photo_trees import celeba_hq, div2k, imagenet_val, picture, png, save_all
from PIL import Image
from small_preparation import run, split_of

from pipeline.core.errors import DataError
from pipeline.data.preparation.decoding import FORMATS


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def photograph(seed: int) -> Image.Image:
    return Image.fromarray(picture(seed))


def pillows_words(data: bytes) -> str:
    """What Pillow says of a damaged file; it counts the bytes that are left over."""
    with pytest.raises(OSError) as error:
        Image.open(io.BytesIO(data)).load()
    return str(error.value)


HALF_PNG = encoded(Image.fromarray(picture(25, height=99)), "PNG")[:5000]
HALF_JPEG = encoded(Image.fromarray(picture(26, height=99)), "JPEG", quality=98)[:2500]
DEEP = picture(90_024).astype(np.uint16) * 257
DEEP_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP)

# name → content and reason; content decides what a file is, so each may lie under any photograph's name
BAD = {
    "deep.png": (encoded(Image.fromarray(DEEP[..., 0]), "PNG"), "is 16-bit grayscale, not 8-bit RGB"),
    "deep_colour.png": (png(52, 40, 16, 2, DEEP_ROWS), "is 16-bit RGB, not 8-bit RGB"),
    "dot.png": (png(1, 1, 8, 2, b"\0abc"), "is 1×1 pixels, smaller than prepare.smallest_edge = 32"),
    "empty.jpg": (b"", "is empty (0 bytes)"),
    "gigapixel.png": (png(50_000, 20_000, 8, 2, b""), "has more pixels than the 89,478,485 that are decoded"),
    "grey.jpg": (encoded(photograph(20).convert("L"), "JPEG"), "is grayscale, not 8-bit RGB"),
    "half.jpg": (HALF_JPEG, f"is truncated or broken ({pillows_words(HALF_JPEG)})"),
    "half.png": (HALF_PNG, "is truncated or broken (image file is truncated)"),
    "palette.png": (encoded(photograph(23).quantize(8), "PNG"), "is a palette image, not 8-bit RGB"),
    "print.jpg": (encoded(photograph(21).convert("CMYK"), "JPEG"), "is CMYK, not 8-bit RGB"),
    "see_through.png": (encoded(photograph(90_022).convert("RGBA"), "PNG"), "is RGB with alpha, not 8-bit RGB"),
    "ünlesbar.jpg": (b"<html>404 Not Found</html>", f"is no image that can be read ({', '.join(FORMATS)})"),
}
GONE = "is missing (a link that leads nowhere, or removed while preparing)"
CONVERTED = {"CMYK": 1, "I;16": 1, "L": 1, "P": 1, "RGB;16": 1, "RGBA": 1}
STOPPED = (
    "{bad} of {all} photographs cannot be used; repair or remove them, set prepare.non_rgb: convert to turn the "
    "non-RGB ones into RGB, or set prepare.on_bad_image: skip to leave them out and record them:"
)


def listed(reasons: dict[str, str]) -> str:
    return "".join(f"\n  {file}: {reason}" for file, reason in sorted(reasons.items()))


def as_recorded(reasons: dict[str, str]) -> list[dict[str, str]]:
    return [{"file": file, "reason": reason} for file, reason in sorted(reasons.items())]


# --- a folder of one's own


REASONS = {name: reason for name, (_, reason) in BAD.items()} | {"gone.jpg": GONE}


def bad_folder(root: Path) -> Path:
    """Ten good photographs among everything that is wrong with files."""
    save_all(root, (f"good{i}.png" for i in range(10)))
    for name, (content, _) in BAD.items():
        (root / name).write_bytes(content)
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    return root


def test_stop_lists_every_bad_file_at_once(tmp_path: Path) -> None:
    root = bad_folder(tmp_path / "photographs")
    with pytest.raises(DataError) as error:
        run(tmp_path, "folder", root)
    assert str(error.value) == STOPPED.format(bad=13, all=23) + listed(REASONS)
    assert not (tmp_path / "prepared").exists()


def test_skip_leaves_them_out_and_records_them(tmp_path: Path) -> None:
    root = bad_folder(tmp_path / "photographs")
    data = run(tmp_path, "folder", root, "prepare.on_bad_image=skip")
    assert data.manifest["skipped"] == as_recorded(REASONS)
    assert sorted(split_of(data)) == [f"good{i}.png" for i in range(10)]
    assert data.summary().endswith("; 13 bad files left out")
    for file in REASONS:
        (root / file).unlink()
    clean = run(tmp_path, "folder", root, name="clean")
    assert np.array_equal(clean.crops(np.arange(len(clean))), data.crops(np.arange(len(data))))


def test_convert_takes_what_has_a_meaning_in_rgb(tmp_path: Path) -> None:
    root = bad_folder(tmp_path / "photographs")
    with pytest.raises(
        DataError, match=r"^7 of 23 photographs cannot be used; repair or remove them or set prepare.on_b"
    ):
        run(tmp_path, "folder", root, "prepare.non_rgb=convert")
    data = run(tmp_path, "folder", root, "prepare.non_rgb=convert", "prepare.on_bad_image=skip")
    assert data.manifest["modes"] == CONVERTED | {"RGB": 10}


# --- the layouts of the real data sets


TREES: dict[str, Callable[[Path], Path]] = {
    "div2k": lambda root: div2k(root, train=200, test=40),
    "imagenet_val": lambda root: imagenet_val(root, 240, classes=12),
    "celeba_hq": lambda root: celeba_hq(root, 240),
}
LAST = {"div2k": "0800.png", "imagenet_val": "ILSVRC2012_val_00050000.JPEG", "celeba_hq": "29999.jpg"}
KEPT_COPY = {"div2k": "last", "imagenet_val": "first", "celeba_hq": "first"}  # DIV2K's last is a test photograph


@dataclass(frozen=True)
class Tree:
    """240 photographs under a data set's own names and one more, of which 12 and the last are bad."""

    root: Path
    reasons: dict[str, str]
    turned: str  # stored lying on its side, EXIF says so
    copies: tuple[str, str]  # the same bytes: the first and the last photograph


def bad_tree(dataset: str, root: Path) -> Tree:
    TREES[dataset](root)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    places = files[7::19]  # in every folder of DIV2K, in nearly every class of ImageNet
    for place, (content, _) in zip(places, BAD.values(), strict=False):
        (root / place).write_bytes(content)
    reasons = {place: reason for place, (_, reason) in zip(places, BAD.values(), strict=False)}
    last = f"{Path(files[0]).parent.as_posix()}/{LAST[dataset]}".removeprefix("./")
    (root / last).write_bytes(b"copied here by mistake")
    (root / last).with_suffix(".txt").write_text("left alone: no photograph by its name")
    (root / files[1]).write_bytes(lying_on_its_side(root / files[1]))
    shutil.copy(root / files[0], root / files[-1])
    reasons[last] = BAD["ünlesbar.jpg"][1]
    return Tree(root, reasons, files[1], (files[0], files[-1]))


def lying_on_its_side(path: Path) -> bytes:
    """The same picture as a camera held upright stores it: turned, with EXIF orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    format = "PNG" if path.suffix == ".png" else "JPEG"
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(picture(1))))
    return encoded(turned, format, exif=exif, **({} if format == "PNG" else {"quality": 98}))


def stored(prepared: Path, number: int) -> NDArray[np.int64]:
    return np.load(prepared / "images/00000.npy")[number].astype(np.int64)


@pytest.fixture(params=TREES)
def dataset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_real_layout_with_every_kind_of_bad_file_stops_with_all_of_them(dataset: str, tmp_path: Path) -> None:
    tree = bad_tree(dataset, tmp_path / "photographs")
    assert len(tree.reasons) == len(BAD) + 1
    with pytest.raises(DataError) as error:
        run(tmp_path, dataset, tree.root)
    assert str(error.value) == STOPPED.format(bad=13, all=241) + listed(tree.reasons)
    assert not (tmp_path / "prepared").exists()


def test_a_real_layout_without_its_bad_files(dataset: str, tmp_path: Path) -> None:
    tree = bad_tree(dataset, tmp_path / "photographs")
    data = run(tmp_path, dataset, tree.root, "prepare.on_bad_image=skip")
    assert data.manifest["skipped"] == as_recorded(tree.reasons)
    kept, dropped = tree.copies if KEPT_COPY[dataset] == "first" else tree.copies[::-1]
    assert data.manifest["duplicates"] == [{"file": dropped, "duplicate_of": kept}]
    splits = split_of(data)
    assert len(splits) == 241 - 13 - 1
    assert kept in splits
    assert not {dropped, *tree.reasons} & splits.keys()
    upright = Image.fromarray(picture(1)).resize((48, 48), Image.Resampling.BICUBIC)
    error = np.abs(stored(data.root, data.image_ids.index(tree.turned)) - np.asarray(upright))
    assert not error.any() if tree.turned.endswith("png") else error.mean() < 3


def test_a_real_layout_with_what_is_not_rgb_converted(dataset: str, tmp_path: Path) -> None:
    tree = bad_tree(dataset, tmp_path / "photographs")
    options = ("prepare.non_rgb=convert", "prepare.on_bad_image=skip")
    data = run(tmp_path, dataset, tree.root, *options)
    converted = {file for file, reason in tree.reasons.items() if reason.endswith("not 8-bit RGB")}
    assert data.manifest["skipped"] == as_recorded(
        {file: reason for file, reason in tree.reasons.items() if file not in converted}
    )
    assert converted <= split_of(data).keys()
    assert Counter(data.manifest["modes"]) - Counter(CONVERTED) == {"RGB": 241 - 13}  # the second copy counts

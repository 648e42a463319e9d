"""One file → RGB pixels, or one reason: every kind of file that people have in their folders."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from messages import says
from numpy.typing import NDArray
from photo_trees import picture, png, save
from PIL import Image, ImageOps
from shipped import prepare_params
from torchvision.transforms import v2

from pipeline.core.params import PrepareParams
from pipeline.data.preparation.dataset import Box, Photograph
from pipeline.data.preparation.decoding import FORMATS, Decoded, decode

REFUSE = prepare_params(size=48, crop=32)
CONVERT = prepare_params(size=48, crop=32, non_rgb="convert")


def decoded(path: Path, rules: PrepareParams = REFUSE, boxes: tuple[Box, ...] = ()) -> Decoded:
    return decode(Photograph(path.name, path, path.name, None, path.name, boxes), rules)


def plain(array: NDArray[np.uint8], size: int = 48) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(array).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.bmp", "a.ppm"])
def test_lossless_formats_give_the_plain_resize(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, 1, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(decoded(path).pixels, plain(picture(1))[None])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_jpeg_equals_a_plain_decode_and_resize_bit_for_bit(tmp_path: Path, interpolation: str) -> None:
    path = save(tmp_path / "large.jpg", 2, height=700, width=900)  # large enough that a draft decode would differ
    rules = prepare_params(size=48, crop=32, interpolation=interpolation)
    expected = Image.open(path).resize((48, 48), Image.Resampling[interpolation.upper()])
    assert np.array_equal(decoded(path, rules).pixels[0], np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(40, 52), (52, 40), (41, 64), (48, 48)])
def test_short_side_is_the_centred_square(tmp_path: Path, height: int, width: int) -> None:
    path = save(tmp_path / "a.png", 3, height=height, width=width)
    rules = prepare_params(size=48, crop=32, resize="short_side")
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    assert np.array_equal(
        decoded(path, rules).pixels[0], plain(picture(3, height, width)[top : top + edge, left : left + edge])
    )


def test_short_side_agrees_with_torchvision(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 4, height=300, width=480)
    rules = prepare_params(size=256, resize="short_side")
    usual = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(256)])
    expected = np.asarray(usual(Image.open(path)), np.float64)
    assert (
        np.abs(decoded(path, rules).pixels[0] - expected).mean() < 1.0
    )  # they differ by part of a pixel at the border


def test_boxes_are_cut_before_resizing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 5, height=90, width=120)
    pixels = decoded(path, boxes=(Box(0, 0, 48), Box(42, 72, 48), Box(10, 20, 60))).pixels
    whole = picture(5, 90, 120)
    assert np.array_equal(pixels[0], whole[:48, :48])
    assert np.array_equal(pixels[1], whole[42:, 72:])
    assert np.array_equal(pixels[2], plain(whole[10:70, 20:80]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    upright = picture(6)
    undo = {2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2)}
    undo |= {6: np.rot90, 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a, 3)}
    stored = np.ascontiguousarray(undo.get(orientation, lambda a: a)(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / name, exif=exif, **({"quality": 98} if name == "a.jpg" else {}))
    error = np.abs(decoded(tmp_path / name).pixels[0].astype(int) - plain(upright))
    assert error.mean() < 3 if name == "a.jpg" else not error.any()


def _file(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def _jpeg(seed: int = 0, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture(seed, 200, 200)).save(data, "JPEG", **options)
    return data.getvalue()


def _exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF put together by hand, with what Pillow would not write: (tag, type, count, value in four bytes)."""
    directory = b"".join(struct.pack("<HHL4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)) + directory + bytes(4)


TURNED = (0x0112, 3, 1, b"\6\0\0\0")
WIDTH_AS_TEXT = (0x0100, 2, 4, b"abc\0")  # read without trouble, but nothing that can be written again


def test_odd_exif_does_not_spoil_a_good_photograph(tmp_path: Path) -> None:
    data = _jpeg(exif=_exif(WIDTH_AS_TEXT, TURNED))
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    result = decoded(_file(tmp_path, "odd.jpg", data))
    upright = Image.open(io.BytesIO(_jpeg())).transpose(Image.Transpose.ROTATE_270)
    assert result.reason == ""
    assert np.array_equal(result.pixels[0], plain(np.asarray(upright)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0XX", b"Exif\0\0II*\0\xff", _exif((0x0112, 5, 1, b"\xff" * 4))])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_where_exif_is_damaged_the_photograph_is_as_it_is_stored(tmp_path: Path, name: str, exif: bytes) -> None:
    without = decoded(save(tmp_path / name, 1)).pixels
    result = decoded(save(tmp_path / name, 1, exif=exif))
    assert result.reason == ""
    assert np.array_equal(result.pixels, without)


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, ZeroDivisionError])
def test_whatever_reading_exif_raises_stays_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    path = save(tmp_path / "a.png", 1)

    def raises(self: Image.Image) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "getexif", raises)
    assert np.array_equal(decoded(path).pixels, plain(picture(1))[None])


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    assert decoded(_file(tmp_path, "really_a_jpeg.png", _jpeg())).reason == ""
    text = decoded(_file(tmp_path, "really_text.jpg", b"Not found\n" * 100))
    assert text.reason == f"is no image that can be read ({', '.join(FORMATS)})"
    assert text.pixels.shape == (0, 48, 48, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_files_say_what_is_wrong(tmp_path: Path) -> None:
    def reason(name: str, data: bytes) -> str:
        return decoded(_file(tmp_path, name, data)).reason

    assert reason("empty.jpg", b"") == "is empty (0 bytes)"
    half = _jpeg()[: len(_jpeg()) // 2]
    assert reason("half.jpg", half).startswith("is truncated or broken (image file is truncated")
    whole = save(tmp_path / "a.png", 1, height=200, width=200).read_bytes()
    assert reason("half.png", whole[: len(whole) // 2]).startswith("is truncated or broken (")
    assert reason("dot.png", png(1, 1, 8, 2, b"\0abc")) == "is 1×1 pixels, smaller than prepare.smallest_edge = 32"
    assert reason("wide.png", png(30_000, 3_000, 8, 2, b"")) == (
        "is 30000×3000 pixels, more than the 89,478,485 that are decoded"
    )
    assert reason("bomb.png", png(60_000, 60_000, 8, 2, b"")) == "has more pixels than the 89,478,485 that are decoded"


def test_missing_and_unreadable_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    says(decoded(tmp_path / "link.jpg").reason, "is missing", "link")
    (tmp_path / "folder.jpg").mkdir()
    assert decoded(tmp_path / "folder.jpg").reason == "cannot be read (Is a directory)"


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(i)) for i in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert decoded(tmp_path / "a.tif").reason == "holds several frames"


def _deep_png(tmp_path: Path) -> Path:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture(7).astype(np.uint16) * 257)
    return _file(tmp_path, "deep.png", png(52, 40, 16, 2, rows))


def _deep_grey(tmp_path: Path) -> Path:
    Image.fromarray(picture(7)[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    return tmp_path / "grey16.png"


def _opaque(tmp_path: Path) -> Path:
    return save(tmp_path / "opaque.png", 7, "RGBA")


def _palette(tmp_path: Path) -> Path:
    Image.fromarray(picture(7)).quantize(16).save(tmp_path / "palette.png")
    return tmp_path / "palette.png"


KINDS = {
    "grayscale": lambda folder: save(folder / "grey.jpg", 7, "L"),
    "black and white": lambda folder: save(folder / "bits.png", 7, "1"),
    "CMYK": lambda folder: save(folder / "cmyk.jpg", 7, "CMYK"),
    "a palette image": _palette,
    "16-bit RGB": _deep_png,
    "16-bit grayscale": _deep_grey,
    "RGB with alpha": _opaque,
    "grayscale with alpha": lambda folder: save(folder / "la.png", 7, "LA"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_8_bit_rgb_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    assert decoded(KINDS[kind](tmp_path)).reason == f"is {kind}, not 8-bit RGB"


@pytest.mark.parametrize("kind", KINDS)
def test_non_rgb_convert_gives_what_pillow_converts(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    result = decoded(path, CONVERT)
    if kind == "16-bit grayscale":  # Pillow clips these; the high byte is meant
        expected = np.repeat(plain(picture(7))[..., :1], 3, axis=2)
    else:
        expected = np.asarray(Image.open(path).convert("RGB").resize((48, 48), Image.Resampling.BICUBIC))
    assert result.reason == ""
    assert np.array_equal(result.pixels[0], expected)
    assert result.mode != "RGB"


def test_transparency_has_no_background_to_show(tmp_path: Path) -> None:
    faded = Image.fromarray(picture(8)).convert("RGBA")
    faded.putalpha(200)
    faded.save(tmp_path / "faded.png")
    says(decoded(tmp_path / "faded.png", CONVERT).reason, "RGB with alpha", "partly transparent")
    Image.fromarray(picture(8)).save(tmp_path / "key.png", transparency=tuple(int(v) for v in picture(8)[0, 0]))
    assert decoded(tmp_path / "key.png").reason == "is RGB with transparency, not 8-bit RGB"
    assert "partly transparent" in decoded(tmp_path / "key.png", CONVERT).reason
    Image.fromarray(picture(8).astype(np.float32)[..., 0]).save(tmp_path / "float.tif")
    says(decoded(tmp_path / "float.tif", CONVERT).reason, "floating-point grayscale", "no agreed conversion")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_bytes_never_raise(tmp_path: Path, format: str) -> None:
    whole = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(9)).save(whole, format, **({} if format in ("GIF", "BMP") else {"exif": exif}))
    draw = random.Random(format)
    for _ in range(150):
        data = bytearray(whole.getvalue())
        for _ in range(draw.choice((1, 3, 30))):
            data[draw.randrange(min(len(data), draw.choice((60, 300, 10**6))))] = draw.randrange(256)
        result = decoded(
            _file(tmp_path, "damaged", bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])), CONVERT
        )
        assert result.reason or result.pixels.shape == (1, 48, 48, 3)

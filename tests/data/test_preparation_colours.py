"""Embedded colour profiles, and the table of modes and depths in docs/data.md, walked row by row."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from photo_trees import picture, png
from PIL import Image, ImageCms
from shipped import prepare_params

from pipeline.core.params import PrepareParams
from pipeline.data.preparation.dataset import Photograph
from pipeline.data.preparation.decoding import Decoded, decode

DOCS = Path(__file__).parents[2] / "docs/data.md"
WHITE = (0.3127, 0.3290, 1.0)
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
SWAPPED = (SRGB[1], SRGB[0], SRGB[2])
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_d50(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(3, 3): linear RGB under D65 → XYZ under D50, adapted by Bradford, as ICC wants it."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([WHITE[0] / WHITE[1], 1, (1 - WHITE[0] - WHITE[1]) / WHITE[1]])
    xyz = xyz * np.linalg.solve(xyz, white)
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adapt @ xyz


def profile(primaries: tuple[tuple[float, float], ...], gamma: float = 2.2) -> bytes:
    """A version 2 matrix profile, put together by hand."""

    def fixed(value: float) -> bytes:
        return round(value * 65536).to_bytes(4, "big", signed=True)

    matrix = to_d50(primaries)
    tags = {b"rXYZ": matrix[:, 0], b"gXYZ": matrix[:, 1], b"bXYZ": matrix[:, 2], b"wtpt": D50}
    bodies = {name: b"XYZ \0\0\0\0" + b"".join(map(fixed, xyz)) for name, xyz in tags.items()}
    curve = b"curv\0\0\0\0" + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    bodies |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    text = b"made by hand\0"
    bodies[b"desc"] = b"desc\0\0\0\0" + len(text).to_bytes(4, "big") + text + bytes(79 + (-len(text) - 91) % 4)
    bodies[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    offset, table, data = 128 + 4 + 12 * len(bodies), b"", b""
    for name, body in bodies.items():
        table += name + (offset + len(data)).to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data += body
    size = offset + len(data)
    header = size.to_bytes(4, "big") + bytes(4) + b"\x02\x10\0\0" + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += b"".join(map(fixed, D50))
    return header.ljust(128, b"\0") + len(bodies).to_bytes(4, "big") + table + data


def by_hand(pixels: np.ndarray, primaries: tuple[tuple[float, float], ...], gamma: float = 2.2) -> np.ndarray:
    """The sRGB values of `pixels` by the matrices alone, clipped to what sRGB holds."""
    linear = (pixels / 255) ** gamma @ to_d50(primaries).T @ np.linalg.inv(to_d50(SRGB)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def rules(**options: str) -> PrepareParams:
    return prepare_params(size=48, crop=32, **options)


def decoded(path: Path, **options: str) -> Decoded:
    return decode(Photograph(path.name, path, path.name, None, path.name), rules(**options))


PIXELS = picture(3, 48, 48)  # of the stored size: nothing is resized


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB, SWAPPED], ids=["Display P3", "Adobe RGB", "swapped"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_a_profile_that_is_not_srgb_is_converted_to_srgb(
    tmp_path: Path, name: str, primaries: tuple[tuple[float, float], ...]
) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(PIXELS).save(tmp_path / name, icc_profile=profile(primaries), **options)
    pixels = decoded(tmp_path / name).pixels[0].astype(float)
    assert np.abs(pixels - by_hand(PIXELS, primaries)).max() < 3
    assert np.abs(pixels - PIXELS).max() > 20
    ignored = decoded(tmp_path / name, colour_profile="ignore")
    assert np.array_equal(ignored.pixels[0], PIXELS)
    assert ignored.content != decoded(tmp_path / name).content


def in_jpeg2000(icc: bytes) -> bytes:
    data = saved("RGB", "JPEG2000")()
    at = data.index(b"colr") - 4
    box = (7 + 8 + len(icc) - 4).to_bytes(4, "big") + b"colr\2\0\0" + icc
    own = int.from_bytes(data[at : at + 4], "big")
    header = data.index(b"jp2h") - 4
    length = int.from_bytes(data[header : header + 4], "big") + len(box) - own
    return data[:header] + length.to_bytes(4, "big") + data[header + 4 : at] + box + data[at + own :]


def in_bmp(icc: bytes) -> bytes:
    """A version 5 header, 124 bytes long, with the profile behind the pixels."""
    rows = PIXELS[::-1, :, ::-1].tobytes()
    fields = struct.pack("<IiiHHIIiiII", 124, 48, 48, 1, 24, 0, len(rows), 0, 0, 0, 0) + bytes(16) + b"DEBM"
    head = fields.ljust(112, b"\0") + struct.pack("<III", 124 + len(rows), len(icc), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(icc), 0, 0, 138) + head + rows + icc


@pytest.mark.parametrize("embedded", [in_jpeg2000, in_bmp])
def test_a_profile_that_pillow_does_not_look_for_is_converted_too(
    tmp_path: Path, embedded: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a").write_bytes(embedded(profile(DISPLAY_P3)))
    assert np.array_equal(decoded(tmp_path / "a", colour_profile="ignore").pixels[0], PIXELS)
    assert np.abs(decoded(tmp_path / "a").pixels[0] - by_hand(PIXELS, DISPLAY_P3)).max() < 3
    (tmp_path / "a").write_bytes(embedded(profile(DISPLAY_P3)[:200]))
    assert "broken colour profile" in decoded(tmp_path / "a").reason
    (tmp_path / "a").write_bytes(embedded(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()))
    assert np.array_equal(decoded(tmp_path / "a").pixels[0], PIXELS)


def test_srgb_is_left_as_it_is_to_the_bit(tmp_path: Path) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=own)
    assert np.array_equal(decoded(tmp_path / "a.png").pixels[0], PIXELS)


@pytest.mark.parametrize("broken", [b"no profile at all", profile(DISPLAY_P3)[:200], bytes(3000), b""])
def test_a_broken_profile_is_a_bad_image_with_the_remedy(tmp_path: Path, broken: bytes) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"iCCP", b"p\0\0" + zlib.compress(broken)) + data[33:])
    reason = decoded(tmp_path / "a.png").reason
    assert "broken colour profile" in reason
    assert "prepare.colour_profile: ignore" in reason
    assert np.array_equal(decoded(tmp_path / "a.png", colour_profile="ignore").pixels[0], PIXELS)


def test_a_profile_of_another_colour_space_is_a_bad_image(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=lab)
    assert "RGB with a colour profile for Lab" in decoded(tmp_path / "a.png").reason


def test_grey_with_an_rgb_profile_is_converted_as_rgb(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png", icc_profile=profile(SRGB, gamma=1.8))
    expected = by_hand(np.repeat(PIXELS[..., :1], 3, axis=2), SRGB, gamma=1.8)
    assert np.abs(decoded(tmp_path / "a.png", non_rgb="convert").pixels[0] - expected).max() < 2


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


GAMMA = chunk(b"gAMA", (100_000).to_bytes(4, "big"))  # 1.0: linear light
PRIMARIES = chunk(b"cHRM", b"".join(round(1e5 * v).to_bytes(4, "big") for xy in (WHITE[:2], *DISPLAY_P3) for v in xy))


@pytest.mark.parametrize("chunks", [GAMMA, PRIMARIES, GAMMA + PRIMARIES], ids=["gAMA", "cHRM", "both"])
@pytest.mark.parametrize("colour_profile", ["convert", "ignore"])
def test_png_gamma_and_chromaticities_are_not_applied(tmp_path: Path, chunks: bytes, colour_profile: str) -> None:
    data = png(48, 48, 8, 2, b"".join(b"\0" + row.tobytes() for row in PIXELS))
    (tmp_path / "a.png").write_bytes(data[:33] + chunks + data[33:])  # after the header
    seen = Image.open(tmp_path / "a.png").info
    assert ("gamma" in seen, "chromaticity" in seen) == (GAMMA in chunks, PRIMARIES in chunks)  # Pillow reads them
    assert np.array_equal(decoded(tmp_path / "a.png", colour_profile=colour_profile).pixels[0], PIXELS)


def test_beside_a_profile_gamma_and_chromaticities_do_not_count(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=profile(DISPLAY_P3))
    alone = decoded(tmp_path / "a.png").pixels
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + GAMMA + PRIMARIES + data[33:])
    assert np.array_equal(decoded(tmp_path / "a.png").pixels, alone)


# --- the table of modes


def saved(mode: str, format: str, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        through = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
        Image.fromarray(PIXELS).convert(through).convert(mode).save(buffer, format, **options)
        return buffer.getvalue()

    return make


def array(values: np.ndarray, format: str) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format)
        return buffer.getvalue()

    return make


def netpbm(head: bytes, values: np.ndarray) -> Callable[[], bytes]:
    return lambda: head + values.tobytes()


def animated(format: str) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
        first.save(buffer, format, save_all=True, append_images=[second])
        return buffer.getvalue()

    return make


def deep_png(colour: int, channels: int) -> bytes:
    deep = np.dstack([PIXELS, np.full((48, 48), 255)])[..., :channels].astype(np.uint16) * 257
    return png(48, 48, 16, colour, b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep))


def deep_tiff(order: str) -> bytes:
    """A TIFF with 16 bits a channel, of byte order `<` or `>`, put together by hand: Pillow writes none in colour."""
    deep = (PIXELS.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
    start = 8 + 6  # after the header, and the bits of each channel
    tags = {
        256: 48,
        257: 48,
        258: 8,
        259: 1,
        262: 2,
        273: start,
        277: 3,
        278: 48,
        279: len(deep),
    }  # 258: where they are
    entries = [struct.pack(f"{order}HHII", 258, 3, 3, 8) if tag == 258 else long(order, tag, tags[tag]) for tag in tags]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I3H", start + len(deep), 16, 16, 16)
    return head + deep + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def long(order: str, tag: int, value: int) -> bytes:
    return struct.pack(f"{order}HHII", tag, 4, 1, value)


def tiff(values: np.ndarray, **options: str) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.ascontiguousarray(values), **options)
        return buffer.getvalue()

    return make


def deep_jpeg2000() -> bytes:
    """16-bit RGB, which Pillow does not write: without wavelet levels, the packets of three grey files, one by one."""
    planes = []
    for channel in range(3):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS[..., channel].astype("<u2") * np.uint16(257)).save(
            buffer, "JPEG2000", no_jp2=True, num_resolutions=1
        )
        planes.append(buffer.getvalue())
    before, tile, _ = planes[0].partition(b"\xff\x90\0\x0a")  # the tile's header: number, length, part, parts
    packets = b"".join(plane.partition(b"\xff\x93")[2].removesuffix(b"\xff\xd9") for plane in planes)
    of_one, of_three = struct.pack(">HBBB", 1, 15, 1, 1), struct.pack(">H9B", 3, *(15, 1, 1) * 3)  # channels, bits
    before = before.replace(b"\xff\x51\0\x29", b"\xff\x51\0\x2f", 1).replace(of_one, of_three, 1)
    length = struct.pack(">HIBB", 0, len(tile) + 8 + 2 + len(packets), 0, 1)
    return before + tile + length + b"\xff\x93" + packets + b"\xff\xd9"


DEEP = PIXELS.astype(">u2") * np.uint16(257)
GREY = np.ascontiguousarray(PIXELS[..., 0])
MADE: dict[str, Callable[[], bytes]] = {
    "RGB": saved("RGB", "PNG"),
    "1": saved("1", "PNG"),
    "L": saved("L", "JPEG"),
    "LA": saved("LA", "PNG"),
    "P": saved("P", "PNG"),
    "PA": saved("PA", "TIFF"),
    "RGBA": saved("RGBA", "PNG"),
    "CMYK": saved("CMYK", "JPEG"),
    "YCbCr TIFF, compressed": saved("YCbCr", "TIFF", compression="tiff_lzw"),
    "YCbCr TIFF, uncompressed": saved("YCbCr", "TIFF"),
    "LAB": saved("LAB", "TIFF"),
    "I": array(GREY.astype(np.int32), "TIFF"),
    "F": array(GREY.astype(np.float32), "TIFF"),
    "PFM": netpbm(b"Pf\n48 48\n-1.0\n", GREY.astype("<f4")),
    "16-bit PNG, grey": lambda: deep_png(0, 1),
    "48-bit PNG": lambda: deep_png(2, 3),
    "64-bit PNG": lambda: deep_png(6, 4),
    "16-bit TIFF": array(GREY.astype("<u2") * np.uint16(257), "TIFF"),
    "16-bit TIFF, big-endian": array(GREY.astype(">u2") * np.uint16(257), "TIFF"),
    "48-bit TIFF": lambda: deep_tiff("<"),
    "48-bit TIFF, big-endian": lambda: deep_tiff(">"),
    "48-bit TIFF in planes": tiff(DEEP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    "16-bit TIFF, 0 is white": tiff(DEEP[..., 0], photometric="miniswhite"),
    "signed 8-bit TIFF": tiff((GREY - 128).astype(np.int8), photometric="minisblack"),
    "16-bit JPEG 2000": array(GREY.astype("<u2") * np.uint16(257), "JPEG2000"),
    "48-bit JPEG 2000": deep_jpeg2000,
    "PGM": netpbm(b"P5 48 48 255\n", GREY),
    "16-bit PGM": netpbm(b"P5 48 48 65535\n", np.ascontiguousarray(DEEP[..., 0])),
    "10-bit PGM": netpbm(b"P5 48 48 1023\n", np.ascontiguousarray(DEEP[..., 0] >> 6).astype(">u2")),
    "PPM": netpbm(b"P6 48 48 255\n", PIXELS),
    "16-bit PPM": netpbm(b"P6 48 48 65535\n", DEEP),
    "PAM": netpbm(b"P7\nWIDTH 48\nHEIGHT 48\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n", PIXELS),
    "animated GIF": animated("GIF"),
    "animated PNG": animated("PNG"),
    "animated WebP": animated("WEBP"),
    "TIFF of several pages": animated("TIFF"),
}


def table() -> dict[str, tuple[str, str, str]]:
    """File → recorded mode, what `refuse` and what `convert` say, of docs/data.md."""
    _, _, rest = DOCS.read_text(encoding="utf-8").partition("| file | mode in `images.csv` |")
    rows = [line.strip("| ").split(" | ") for line in rest.split("\n\n")[0].splitlines()[2:]]
    return {row[0]: (row[1].strip("`"), row[2], row[3]) for row in rows}


def test_the_table_of_modes_has_every_row() -> None:
    assert set(table()) == set(MADE)


@pytest.mark.parametrize("kind", MADE)
def test_the_table_of_modes_is_what_happens(tmp_path: Path, kind: str) -> None:
    mode, refused, converted = table()[kind]
    (tmp_path / "a").write_bytes(MADE[kind]())
    for said, non_rgb in ((refused, "refuse"), (converted, "convert")):
        result = decoded(tmp_path / "a", non_rgb=non_rgb)
        if said.startswith("taken"):
            assert result.reason == ""
            assert result.mode == mode
        else:
            assert said in result.reason
            assert result.reason
    if result.mode.endswith(";16") or kind == "PGM":
        expected = PIXELS if mode.startswith("RGB") else np.repeat(GREY[..., None], 3, axis=2)
        assert np.abs(result.pixels[0].astype(int) - expected).max() <= 1


def test_pillow_still_misreads_these_tiffs() -> None:
    """Why they are refused; where this fails, they can be taken."""
    with pytest.raises(OSError, match="truncated"):  # 4 bytes a pixel are read where there are 3
        Image.open(io.BytesIO(MADE["YCbCr TIFF, uncompressed"]())).load()
    found = [
        np.asarray(Image.open(io.BytesIO(MADE[kind]()))) for kind in ("48-bit TIFF in planes", "signed 8-bit TIFF")
    ]
    assert np.abs(found[0].astype(int) - PIXELS).max() > 100
    assert np.array_equal(found[1], GREY - 128)  # modulo 256
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(MADE["16-bit TIFF, 0 is white"]()))), DEEP[..., 0])


def test_pillow_still_turns_the_white_of_deep_jpeg_2000_black() -> None:
    """Why these files are refused; where this fails, they can be taken."""
    found = np.asarray(Image.open(io.BytesIO(deep_jpeg2000()))).astype(int)
    assert np.abs(found - PIXELS)[PIXELS < 255].max() <= 1
    assert found[PIXELS == 255].max() == 0

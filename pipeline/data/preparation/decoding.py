"""Decode one file to upright RGB pixels of the stored size, or give the reason why it cannot be used."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from pipeline.core.params import PrepareParams
from pipeline.data.preparation.dataset import Box, Photograph
from pipeline.stores.prepared import checksum

LARGEST_FILE = 2**30  # bytes
LARGEST_IMAGE = 89_478_485  # pixels, 268 MB as RGB: the level at which Pillow warns
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MODES = {
    "1": "black and white",
    "L": "grayscale",
    "LA": "grayscale with alpha",
    "P": "a palette image",
    "PA": "a palette image with alpha",
    "RGBA": "RGB with alpha",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "CIELAB",
    "I;16": "16-bit grayscale",
    "I": "32-bit or signed grayscale",
    "F": "floating-point grayscale",
}
_CONVERTIBLE = frozenset({"1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "RGB"})
_UPRIGHT = {  # the transpose that undoes each EXIF orientation, as in ImageOps.exif_transpose
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG2000 = b"\xff\x4f\xff\x51"
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SIGNS = 258, 259, 262, 284, 339  # tags of TIFF
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile → mode to which it applies
_IGNORE = "; repair the file, or set prepare.colour_profile: ignore to read its numbers as they are"
# Errors that Pillow raises on damaged bytes; undocumented, found by fuzzing (as in the tests) and by reading Pillow.
_TAGS = (AssertionError, AttributeError, KeyError, TypeError, ZeroDivisionError)  # of EXIF and TIFF
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error, *_TAGS)


class BadImageError(Exception):
    """A file that cannot be used. The message gives the reason and follows the file's name."""


@dataclass(frozen=True)
class Decoded:
    """A photograph's images, or the reason why there are none.

    Attributes:
        sha256: of the file.
        mode: Pillow's mode, with `;16` added for 16 bits a channel.
        pixels: (images, size, size, 3) uint8 RGB.
        reason: why the file cannot be used; "" for a good one.
        content: identifies the RGB pixels at full size; equal for every lossless copy.
        shape: (height, width) before resizing.
    """

    sha256: str
    mode: str
    pixels: NDArray[np.uint8]
    reason: str = ""
    content: str = ""
    shape: tuple[int, int] = (0, 0)


def decode(photograph: Photograph, rules: PrepareParams) -> Decoded:
    """Read, check, orient, cut and resize one photograph. For a bad file it returns the `reason`, and never raises."""
    nothing = np.empty((0, rules.size, rules.size, 3), np.uint8)
    try:
        data = _read(photograph)
    except BadImageError as bad:
        return Decoded("", "", nothing, str(bad))
    digest = hashlib.sha256(data).hexdigest()
    try:
        image, mode = open_rgb(data, rules)
        pixels = np.stack([resized(part, rules) for part in _parts(image, photograph.boxes)])
    except BadImageError as bad:
        return Decoded(digest, "", nothing, str(bad))
    return Decoded(digest, mode, pixels, content=_content(image, pixels), shape=(image.height, image.width))


def open_rgb(data: bytes, rules: PrepareParams) -> tuple[Image.Image, str]:
    """The upright RGB image in `data`, and its original mode.

    Raises:
        BadImageError: it is empty, no image, broken, too small, too large, animated, not RGB, or has a colour profile
            that cannot be applied.
    """
    if not data:
        raise BadImageError("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image, rules.smallest_edge)
        mode = _mode(image, data)
        _check_tiff(image)
    except UnidentifiedImageError:
        raise BadImageError(f"is no image that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"has more pixels than the {LARGEST_IMAGE:,} that are decoded") from None
    except _BROKEN as error:
        raise BadImageError(f"is broken ({error})") from None
    try:
        image.load()
    except _BROKEN as error:
        raise BadImageError(f"is truncated or broken ({error})") from None
    image.info |= _unread_profile(image.format, data)
    return _rgb(_upright(image), mode, image.format, rules), mode


def resized(image: Image.Image, rules: PrepareParams) -> NDArray[np.uint8]:
    """Resize to (size, size, 3) uint8: the whole image, or for `short_side` its largest centred square."""
    if rules.resize == "short_side":
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge))
    return np.asarray(image.resize((rules.size, rules.size), _FILTERS[rules.interpolation]))


def _read(photograph: Photograph) -> bytes:
    try:
        size = photograph.path.stat().st_size
        if size > LARGEST_FILE:
            raise BadImageError(f"has {size:,} bytes, more than the {LARGEST_FILE:,} that are read")
        return photograph.path.read_bytes()
    except FileNotFoundError:
        raise BadImageError("is missing (a link that leads nowhere, or removed while preparing)") from None
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None


def _check_size(image: Image.Image, smallest_edge: int) -> None:
    width, height = image.size
    if min(width, height) < smallest_edge:
        raise BadImageError(f"is {width}×{height} pixels, smaller than prepare.smallest_edge = {smallest_edge}")
    if width * height > LARGEST_IMAGE:
        raise BadImageError(f"is {width}×{height} pixels, more than the {LARGEST_IMAGE:,} that are decoded")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a JPEG with a preview behind it
        raise BadImageError("holds several frames")


def _mode(image: ImageFile.ImageFile, data: bytes) -> str:
    """Pillow's mode, with `;16` where the file has more than 8 bits a channel.

    Pillow opens 48-bit RGB as 8-bit RGB, and a 16-bit PGM as 32-bit; only its decoder's arguments show the difference.
    """
    deep = any(";16" in str(tile.args) for tile in image.tile)
    if image.format == "PPM" and isinstance(image.tile[0].args, tuple) and image.mode in ("RGB", "I"):
        deep = int(image.tile[0].args[1]) > 255  # (raw mode, largest value)
    if image.format == "JPEG2000":
        header = data.find(_JPEG2000)  # of the codestream; byte 42 holds the bits of the first channel, minus one
        deep = header >= 0 and (data[header + 42 : header + 43] or b"\0")[0] & 0x7F > 7
    if (image.mode == "I" and image.format != "PPM") or image.mode.startswith("I;"):
        return image.mode
    return image.mode + ";16" if deep else image.mode


def _check_tiff(image: ImageFile.ImageFile) -> None:
    """Raise BadImageError for a TIFF that Pillow decodes to wrong values without an error."""
    tags = getattr(image, "tag_v2", None) or {}
    deep = max(tags.get(_BITS, (1,))) > 8
    name = _describe(f"{image.mode};16" if deep else image.mode, transparent=False)
    if deep and tags.get(_PLANES) == 2:
        raise BadImageError(f"is {name} in planes, a TIFF that Pillow misreads; save it as PNG")
    if tags.get(_PHOTOMETRIC) == 6 and tags.get(_COMPRESSION) == 1:
        raise BadImageError("is YCbCr without compression, a TIFF that Pillow misreads; save it as PNG")
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        raise BadImageError(
            "is 16-bit grayscale where 0 is white, a TIFF that Pillow reads as a negative; save it as PNG"
        )
    if not deep and any(sign == 2 for sign in tags.get(_SIGNS, ())):
        raise BadImageError(f"is {name} of signed numbers, a TIFF that Pillow reads as unsigned; save it as PNG")


def _unread_profile(format: str | None, data: bytes) -> dict[str | tuple[int, int], Any]:
    """The profile of a JPEG 2000 or a BMP, which Pillow does not read, as an entry of `Image.info`; {} without one."""
    if format == "JPEG2000":
        box = data.find(b"colr", 0, data.find(_JPEG2000) + 1 or None)  # length, name, method, two bytes, profile
        if box >= 4 and data[box + 4] in (2, 3):
            return {"icc_profile": data[box + 7 : box - 4 + int.from_bytes(data[box - 4 : box])]}
    if format == "BMP" and data[14] == 124 and data[70:74] == b"DEBM":  # version 5, with an embedded profile
        start, size = (int.from_bytes(data[place : place + 4], "little") for place in (126, 130))
        return {"icc_profile": data[14 + start : 14 + start + size]}
    return {}


def _content(image: Image.Image, pixels: NDArray[np.uint8]) -> str:
    """A digest that is equal for equal decoded images: CRC-32C of all pixels, and SHA-256 of the few that are stored.

    SHA-256 of all pixels would add a tenth to the time of decoding.
    """
    whole = np.asarray(image)
    return f"{image.width}×{image.height} {checksum(whole)} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation, or unchanged where EXIF is too damaged to read it.

    ImageOps.exif_transpose would rewrite all of EXIF and fail on any invalid tag of a good photograph.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return image
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, mode: str, format: str | None, rules: PrepareParams) -> Image.Image:
    transparent = "A" in image.mode or "transparency" in image.info
    profiled = "icc_profile" in image.info and rules.colour_profile == "convert"
    if mode != "RGB" or transparent:
        name = _describe(mode, transparent)
        if rules.non_rgb == "refuse":
            raise BadImageError(f"is {name}, not 8-bit RGB")
        if not mode.startswith("I;16") and image.mode not in _CONVERTIBLE:
            raise BadImageError(f"is {name}, which has no agreed conversion to RGB")
        if format == "JPEG2000" and mode.endswith(";16") and image.mode != "I;16":  # its rounding overflows 8 bits
            raise BadImageError(f"is {name} in JPEG 2000, whose brightest values Pillow turns black; save it as PNG")
        if mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if transparent and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise BadImageError(f"is {name} and partly transparent, so its background is unknown")
    return _srgb(image, image.info["icc_profile"]) if profiled else image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image with an embedded ICC profile to sRGB; its values stay unchanged where the profile is sRGB."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        space = opened.profile.xcolor_space.strip()
        grey = image.mode in ("1", "L", "LA")
        own = "CMYK" if image.mode == "CMYK" else "GRAY" if grey and space != "RGB" else "RGB"
        if own != space:
            raise BadImageError(f"is {image.mode} with a colour profile for {space}{_IGNORE}")
        image = image.convert(_PROFILED[space])
        if _is_srgb(profile or b""):
            return image
        return _to_srgb(image, opened)
    except (ImageCms.PyCMSError, *_BROKEN) as error:  # Pillow gives None for a profile that cannot be unpacked
        raise BadImageError(f"has a broken colour profile ({error}){_IGNORE}") from None


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), intent, "RGB", False, flags)
    if converted is None:
        raise BadImageError(f"has a colour profile that gave no image{_IGNORE}")
    return converted


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Whether the conversion changes no colour of a 9×9×9 lattice by more than one level, the effect of rounding."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if opened.profile.xcolor_space.strip() != "RGB":
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    converted = np.asarray(_to_srgb(Image.fromarray(lattice), opened))
    return int(np.abs(converted.astype(int) - lattice).max()) <= 1


def _describe(mode: str, transparent: bool) -> str:
    base, _, depth = mode.partition(";")
    name = _MODES.get(mode) or _MODES.get(base, base)
    if transparent and "A" not in base:
        name += " with transparency"
    return f"16-bit {name}" if depth and base != "I" else name


def _parts(image: Image.Image, boxes: tuple[Box, ...]) -> list[Image.Image]:
    if not boxes:
        return [image]
    return [image.crop((box.left, box.top, box.left + box.edge, box.top + box.edge)) for box in boxes]

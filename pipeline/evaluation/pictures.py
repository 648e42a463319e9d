"""Pictures of tiles with captions, written so that equal content gives equal bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.errors import DataError
from pipeline.core.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

ERROR_GAIN = 5
MARGIN, CAPTION = 6, 20  # pixels
EDGE = 224  # pixels; smaller images are enlarged by a whole factor up to this edge
BAR = 12  # pixels; width of a colour scale

Picture = NDArray[np.uint8]  # (H, W, 3)


def to_picture(image: Tensor) -> Picture:
    """RGB (3, H, W) in [0, 1] → (H, W, 3) 8-bit."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def error_picture(prediction: Tensor, target: Tensor) -> Picture:
    """Absolute error per channel, amplified `ERROR_GAIN` times; black is exact."""
    return to_picture((prediction - target).abs() * ERROR_GAIN)


def similarity_picture(similarity: Tensor, height: int, width: int) -> Picture:
    """A local SSIM map (3, h, w) of the valid region as colours: yellow is 1, dark blue 0 or less.

    The border outside the valid region repeats the nearest value, so the tile is as large as the image.
    """
    mean = similarity.float().mean(0).clamp(0, 1).cpu().numpy()  # (h, w)
    rows, columns = height - mean.shape[0], width - mean.shape[1]
    borders = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    return coloured(np.pad(mean, borders, mode="edge"))


def enlarged(picture: Picture, edge: int = EDGE) -> Picture:
    """Enlarge by the largest whole factor that leaves no edge above `edge`, by repeating pixels."""
    factor = max(1, edge // max(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def with_scale(picture: Picture, labels: Sequence[str]) -> Picture:
    """Add, to the right of a picture of `coloured` values, a colour scale from 1 (top) to 0 with `labels`."""
    height, width = picture.shape[:2]
    text = max(int(_font().getlength(label)) for label in labels) + 1
    canvas = Image.new("RGB", (width + MARGIN + BAR + 3 + text, height), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    bar = coloured(np.linspace(1, 0, height)[:, None].repeat(BAR, 1))
    canvas.paste(Image.fromarray(bar), (width + MARGIN, 0))
    draw, left = ImageDraw.Draw(canvas), width + MARGIN + BAR + 3
    for label, top, anchor in zip(labels, np.linspace(0, height - 1, len(labels)), ("la", "lm", "ld"), strict=True):
        draw.text((left, int(top)), label, fill="black", font=_font(), anchor=anchor)
    return np.asarray(canvas)


def coloured(values: NDArray[np.floating], name: str = "cividis") -> Picture:
    """Values (H, W) in [0, 1] through one of matplotlib's colour maps."""
    return (colormaps[name](values)[..., :3] * 255).round().astype(np.uint8)


def channel_pictures(features: Tensor, count: int, edge: int) -> tuple[list[int], list[Picture]]:
    """Pictures of the `count` channels of (C, h, w) with the largest variance, each stretched to its own range.

    Pixels are repeated up to about `edge` pixels, so that the feature grid is visible.

    Returns:
        The channels' numbers, the largest variance first, and their pictures.
    """
    spread = features.float().flatten(1).std(dim=1)
    chosen = spread.argsort(descending=True, stable=True)[:count].tolist()
    factor = max(1, round(edge / max(features.shape[-2:])))
    pictures = []
    for channel in chosen:
        values = features[channel].float().cpu().numpy()
        low, high = values.min(), values.max()
        scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
        pictures.append(coloured(scaled.repeat(factor, 0).repeat(factor, 1), "viridis"))
    return chosen, pictures


def sheet(rows: Sequence[Sequence[Picture]], captions: Sequence[Sequence[str]]) -> Picture:
    """Rows of tiles on white, each below its caption, which is wrapped to the tile's width and never shortened.

    Rows may have different tile sizes.
    """
    strips = [_strip(tiles, texts) for tiles, texts in zip(rows, captions, strict=True)]
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    return np.concatenate(padded)


def require_folder(path: Path, option: str = "--out") -> None:
    """Check, before any work, that `path` is a folder or can become one.

    Args:
        option: the command-line option that gave the path, for the message.

    Raises:
        DataError: the path, or a parent, is a file.
    """
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists():
            raise DataError(f"{option} {path}: {place} is a file; name a folder, it is made when missing")


def save_png(picture: Picture, path: Path) -> None:
    """Write without metadata: equal pixels give equal bytes."""
    with whole_file(path) as part:
        Image.fromarray(picture).save(part, "PNG", optimize=True)


def _strip(tiles: Sequence[Picture], texts: Sequence[str]) -> Picture:
    pairs = zip(tiles, texts, strict=True)
    lines = [[part for line in text.split("\n") for part in _wrapped(line, tile.shape[1])] for tile, text in pairs]
    top = CAPTION * max(map(len, lines))
    height = max(tile.shape[0] for tile in tiles) + top + MARGIN
    width = sum(tile.shape[1] + MARGIN for tile in tiles) + MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw, left = ImageDraw.Draw(canvas), MARGIN
    for tile, its_lines in zip(tiles, lines, strict=True):
        for number, line in enumerate(its_lines):
            draw.text((left, 2 + number * CAPTION), line, fill="black", font=_font())
        canvas.paste(Image.fromarray(tile), (left, top))
        left += tile.shape[1] + MARGIN
    return np.asarray(canvas)


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap `text` to lines of at most `width` pixels, if possible after a space, `/`, `_` or `-`.

    Nothing is cut off, because two images may share a shortened name.
    """
    lines: list[str] = []
    line = ""
    for part in re.findall(r"[^\s/_-]*[\s/_-]?", text):
        if _font().getlength((line + part).rstrip()) > width and line:
            lines, line = [*lines, line.rstrip()], ""
        for letter in part:  # one by one, because a part may be wider than a line
            if line and _font().getlength((line + letter).rstrip()) > width:
                lines, line = [*lines, line], ""
            line += letter
    return [*lines, line.rstrip()]


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """matplotlib's font, which is the same everywhere and has the letters of most scripts."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)

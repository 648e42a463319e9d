"""Pictures made of pixels: tiles with captions, written so that equal content gives equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.core.errors import DataError
from pipeline.core.files import whole_file
from pipeline.metrics.similarity import ssim_map

ERROR_GAIN = 5
MARGIN, CAPTION = 6, 20  # pixels

Picture = NDArray[np.uint8]  # (H, W, 3)


def to_picture(image: Tensor) -> Picture:
    """RGB (3, H, W) in [0, 1] → (H, W, 3) 8-bit."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def error_picture(prediction: Tensor, target: Tensor) -> Picture:
    """Absolute error per channel, amplified `ERROR_GAIN` times; black is exact."""
    return to_picture((prediction - target).abs() * ERROR_GAIN)


def similarity_picture(similarity: Tensor, height: int, width: int) -> Picture:
    """A local SSIM map (3, h, w) of the valid region as colours: yellow is 1, dark blue 0 or less.

    The border that the window cannot reach repeats its nearest value, so the tile is as large as the image.
    """
    mean = similarity.float().mean(0)[None, None]  # (1, 1, h, w)
    top, left = (height - mean.shape[-2]) // 2, (width - mean.shape[-1]) // 2
    padded = F.pad(mean, (left, width - mean.shape[-1] - left, top, height - mean.shape[-2] - top), mode="replicate")
    return coloured(padded[0, 0].clamp(0, 1).cpu().numpy())


def comparison_tiles(prediction: Tensor, target: Tensor) -> list[Picture]:
    """Original, reconstruction, error and local SSIM of one image (3, H, W)."""
    similarity = ssim_map(prediction[None].double(), target[None].double())[0].float()
    return [
        to_picture(target),
        to_picture(prediction),
        error_picture(prediction, target),
        similarity_picture(similarity, *target.shape[-2:]),
    ]


def coloured(values: NDArray[np.floating], name: str = "cividis") -> Picture:
    """Values (H, W) in [0, 1] through one of matplotlib's colour maps."""
    return (colormaps[name](values)[..., :3] * 255).round().astype(np.uint8)


def channel_pictures(features: Tensor, count: int, edge: int) -> tuple[list[int], list[Picture]]:
    """The `count` channels of (C, h, w) that vary most, strongest first, each stretched to its own range.

    Enlarged to about `edge` pixels by repeating pixels, so that the feature grid can be seen.
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
    """Rows of tiles on white, each under its caption of one or more lines. Every row may have its own tile sizes."""
    strips = [_strip(tiles, texts) for tiles, texts in zip(rows, captions, strict=True)]
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    return np.concatenate(padded)


def require_folder(path: Path, option: str = "--out") -> None:
    """Refuse, before any work, a place for pictures that is no folder and cannot become one.

    `option` is what the user named it by.

    Raises:
        DataError: a file is in the way.
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
    lines = [text.split("\n") for text in texts]
    top = CAPTION * max(map(len, lines))
    height = max(tile.shape[0] for tile in tiles) + top + MARGIN
    width = sum(tile.shape[1] + MARGIN for tile in tiles) + MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw, left = ImageDraw.Draw(canvas), MARGIN
    for tile, its_lines in zip(tiles, lines, strict=True):
        for number, line in enumerate(its_lines):
            draw.text((left, 2 + number * CAPTION), _fitting(line, tile.shape[1]), fill="black", font=_font())
        canvas.paste(Image.fromarray(tile), (left, top))
        left += tile.shape[1] + MARGIN
    return np.asarray(canvas)


def _fitting(text: str, width: int) -> str:
    """`text`, shortened in the middle until it is at most `width` pixels wide."""
    if _font().getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        shorter = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
        if _font().getlength(shorter) <= width:
            return shorter
    return ""


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: the same everywhere, and it knows file names in most scripts."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)

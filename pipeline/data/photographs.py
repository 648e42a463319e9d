"""Photographs read directly from files, cropped like the test split, without `prepare`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import DataError
from pipeline.core.files import printable
from pipeline.core.params import PrepareParams
from pipeline.core.prefetch import prefetch
from pipeline.core.progress import counted
from pipeline.data.preparation.dataset import Photograph
from pipeline.data.preparation.decoding import BadImageError, Decoded, decode, open_rgb, resized
from pipeline.stores.encoding import rgb


def open_photographs(paths: Sequence[Path], rules: PrepareParams) -> Tensor:
    """Photographs, resized and cropped by `rules` like the test split: (N, 3, crop, crop) float32 RGB in [0, 1].

    Raises:
        DataError: no files were given, or some cannot be used; the message lists these with their reasons.
    """
    if not paths:
        raise DataError("no photographs were given; check that the pattern matches a file")
    images = list(decode_files(paths, rules, ahead=len(paths)))
    bad = [f"\n  {printable(path)}: {image.reason}" for path, image in zip(paths, images, strict=True) if image.reason]
    if bad:
        total = counted(len(images), "photograph")
        raise DataError(f"{len(bad)} of {total} cannot be used; repair or leave out these:{''.join(bad)}")
    return centre_crops(images, rules)


def open_photograph(content: bytes, rules: PrepareParams) -> tuple[Tensor, tuple[int, int]]:
    """A file's bytes as an image (1, 3, crop, crop), as `open_photographs`; and its (height, width) before.

    Raises:
        DataError: it cannot be used; the message says why, to be read after the photograph's name.
    """
    try:
        image, _ = open_rgb(content, rules)
        pixels = resized(image, rules)
    except BadImageError as bad:
        raise DataError(str(bad)) from None
    return _centre(torch.from_numpy(pixels[None].copy()), rules), (image.height, image.width)


def decode_files(paths: Sequence[Path], rules: PrepareParams, ahead: int) -> Iterator[Decoded]:
    """Yield each file's image, or the reason why there is none, in order; threads decode up to `ahead` files early."""
    photographs = [Photograph(path.name, path, printable(path), None, path.name) for path in paths]
    return prefetch(photographs, lambda photograph: decode(photograph, rules), os.cpu_count() or 1, ahead=ahead)


def centre_crops(images: Sequence[Decoded], rules: PrepareParams) -> Tensor:
    """The centre crops of decoded images: (N, 3, crop, crop) float32 RGB in [0, 1]."""
    return _centre(torch.from_numpy(np.stack([image.pixels[0] for image in images])), rules)


def _centre(pixels: Tensor, rules: PrepareParams) -> Tensor:
    inside = slice((rules.size - rules.crop) // 2, (rules.size - rules.crop) // 2 + rules.crop)
    return rgb(pixels[:, inside, inside])

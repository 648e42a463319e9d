"""Small photographs on disk, laid out as the real data sets are, and the data sets that list them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shipped import options

from pipeline.core.params import Params, load_params
from pipeline.core.section import parse_section
from pipeline.data.preparation.dataset import DATASETS, Dataset, Photograph

PARAMS = Path(__file__).parents[2] / "params.yaml"


def picture(seed: int, height: int = 40, width: int = 52) -> NDArray[np.uint8]:
    """A smooth random picture, different for every seed: (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, seed: int, mode: str = "RGB", height: int = 40, width: int = 52, **options: object) -> Path:
    """Write picture `seed` in `mode`, in the format that the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, height, width)).convert(mode).save(path, **options)
    return path


def save_all(root: Path, names: Iterable[str], first_seed: int = 0) -> Path:
    for seed, name in enumerate(names, first_seed):
        save(root / name, seed)
    return root


def div2k(root: Path, train: int = 800, test: int = 100) -> Path:
    save_all(root / "DIV2K_train_HR", (f"{i:04d}.png" for i in range(1, train + 1)))
    save_all(root / "DIV2K_valid_HR", (f"{i:04d}.png" for i in range(801, 801 + test)), first_seed=10_000)
    return root


def imagenet_val(root: Path, count: int, classes: int = 0) -> Path:
    """Flat, or in `classes` class folders as the usual script sorts them."""
    folder = [f"n{1440764 + 137 * i:08d}/" for i in range(classes)] or [""]
    return save_all(root, (f"{folder[i % len(folder)]}ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(count)))


def celeba_hq(root: Path, count: int, digits: int = 1) -> Path:
    return save_all(root, (f"{i:0{digits}d}.jpg" for i in range(count)))


def dataset(name: str, seed: int = 42, **changes: object) -> Dataset:
    schema, section = DATASETS.get(name), f"datasets.{name}"
    changes = {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}
    return schema(parse_section(schema.Options, options(section, **changes), section), seed)


def ids(photographs: list[Photograph]) -> list[str]:
    return [photograph.id for photograph in photographs]


def small_params(dataset: str, root: Path, *overrides: str) -> Params:
    """params.yaml of the project, reading `root`, with pictures of 48 and views of 32 pixels."""
    size = ("prepare.size=48", "prepare.crop=32")
    return load_params(PARAMS, (f"dataset={dataset}", f"datasets.{dataset}.root={root}", *size, *overrides))


def tree_bytes(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its content."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG put together by hand: what Pillow cannot write (16-bit RGB) or should not (a lying header)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

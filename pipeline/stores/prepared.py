"""Prepared photographs, opened for reading: pixels, splits, and the table of views (crops).

On disk, readable with NumPy and any CSV reader:

    manifest.json       written last; without it the data is unfinished
    images.csv          image, id, file, sha256, mode, split, photograph
    views.csv           row, image, split, top, left, flip
    images/00000.npy    uint8 (images, size, size, 3), images in the order of images.csv
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import DataError
from pipeline.core.progress import counted

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

FORMAT = 1
MANIFEST, IMAGES, VIEWS, SHARDS = "manifest.json", "images.csv", "views.csv", "images"
IMAGE_COLUMNS = ("image", "id", "file", "sha256", "mode", "split", "photograph")
VIEW_COLUMNS = ("row", "image", "split", "top", "left", "flip")


def checksum(data: bytes | NDArray[np.uint8]) -> str:
    """CRC-32C of bytes or of a contiguous array, as 8 hex digits."""
    return f"{google_crc32c.value(data):08x}"


def shard_name(number: int) -> str:
    """File name of a shard of pixels."""
    return f"{number:05d}.npy"


class PreparedData:
    """`data/prepared`: rows are views, ordered train, validation, test, then image, then view.

    Use `PreparedData.open`. Reading is thread-safe: shards are read-only memory maps, each compared
    with its checksum when it is first read. A pickle (for worker processes) holds the path and the fingerprint;
    unpickling opens the data again and raises DataError if the path now holds other data.

    Attributes:
        size, crop: edge of a stored image and of a view, pixels.
        fingerprint: hex digest of all pixels, ids, splits and views.
        manifest: the content of manifest.json.
        image, top, left, flip: the table of views, one entry for each row.
        image_ids: readable id of each image.
        photographs: the photograph of each image; images that share one (crops, a stereo pair) are not independent.
    """

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        self.root = root
        self.manifest = manifest
        self.size: int = manifest["size"]
        self.crop: int = manifest["crop"]
        self.fingerprint: str = manifest["fingerprint"]
        images = _read_table(root, IMAGES, IMAGE_COLUMNS, manifest)
        views = _read_table(root, VIEWS, VIEW_COLUMNS, manifest)
        self.image_ids: tuple[str, ...] = tuple(images["id"])
        self.photographs: tuple[str, ...] = tuple(images["photograph"])
        self.image: NDArray[np.int64] = np.array(views["image"], np.int64)
        self.top: NDArray[np.int64] = np.array(views["top"], np.int64)
        self.left: NDArray[np.int64] = np.array(views["left"], np.int64)
        self.flip: NDArray[np.bool_] = np.array(views["flip"], np.int64).astype(bool)
        self._split = np.array(views["split"])
        self._ends = np.cumsum([shard["images"] for shard in manifest["shards"]])
        self._shards: dict[int, NDArray[np.uint8]] = {}
        self._checked: set[int] = set()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, root: Path) -> PreparedData:
        """Open `root`, checking that every file is there and has the size it was written with.

        Raises:
            DataError: not prepared, prepared incompletely, or damaged.
        """
        data = cls(root, _read_manifest(root))
        for number, shard in enumerate(data.manifest["shards"]):
            path = root / SHARDS / shard_name(number)
            found = path.stat().st_size if path.is_file() else 0
            if found != shard["bytes"]:
                raise DataError(f"{path} has {found:,} of {shard['bytes']:,} bytes; {_REMEDY}")
        return data

    def __reduce__(self) -> tuple[Callable[..., PreparedData], tuple[Path, str]]:
        # absolute: the other process may have another working directory
        return _reopened, (Path(os.path.abspath(self.root)), self.fingerprint)

    def __len__(self) -> int:
        """Number of rows (views)."""
        return len(self.image)

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Ascending row numbers of `split`."""
        return np.flatnonzero(self._split == split)

    def crops(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The pixels of `rows`: (B, crop, crop, 3) uint8 RGB, into `out` when it is given.

        Raises:
            DataError: a shard's pixels are not those that were written.
        """
        if out is None:
            out = np.empty((len(rows), self.crop, self.crop, 3), np.uint8)
        for target, row in zip(out, rows, strict=True):
            top, left = self.top[row], self.left[row]
            view = self._pixels(int(self.image[row]))[top : top + self.crop, left : left + self.crop]
            if self.flip[row]:
                for channel in range(3):  # four times faster than all three in one reversed copy
                    target[..., channel] = view[:, ::-1, channel]
            else:
                target[...] = view
        return out

    def forget(self) -> None:
        """Unmap all pixels, to free memory after one pass; pixels that are read again are mapped again."""
        with self._lock:
            self._shards = {}

    def summary(self) -> str:
        """One line for users: images of each split, views, files that were left out."""
        images = self.manifest["images"]
        found, expected = self.manifest["photographs"], self.manifest["expected_photographs"]
        parts = [
            f"{self.manifest['dataset']}: {images['train']:,} train, {images['validation']:,} validation, "
            f"{counted(images['test'], 'test image')}",
            f"{counted(len(self), 'view')} of {self.crop}×{self.crop}",
        ]
        if self.manifest["skipped"]:
            parts.append(f"{counted(len(self.manifest['skipped']), 'bad file')} left out")
        duplicates = len(self.manifest["duplicates"])
        if duplicates:
            parts.append(f"{counted(duplicates, 'second copy', 'second copies')} left out")
        if expected and found < expected:
            parts.append(f"{found:,} of the data set's {counted(expected, 'photograph')}")
        return "; ".join(parts)

    def _pixels(self, image: int) -> NDArray[np.uint8]:
        """Pixels of one stored image, (size, size, 3), read-only."""
        number = int(np.searchsorted(self._ends, image, side="right"))
        shard = self._shards.get(number)
        if shard is None:
            with self._lock:
                shard = self._shards.setdefault(number, self._open_shard(number))
        return shard[image - (self._ends[number] - len(shard))]

    def _open_shard(self, number: int) -> NDArray[np.uint8]:
        path = self.root / SHARDS / shard_name(number)
        pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        if number not in self._checked and checksum(pixels) != self.manifest["shards"][number]["crc32c"]:
            raise DataError(f"{path} is damaged (its checksum is not the one it was written with); {_REMEDY}")
        self._checked.add(number)
        return pixels


_REMEDY = "prepare the data again with `dvc repro -f prepare` or `python -m stages prepare`"


def _reopened(root: Path, fingerprint: str) -> PreparedData:
    data = PreparedData.open(root)
    if data.fingerprint != fingerprint:
        raise DataError(
            f"{root} was prepared again: its fingerprint is not {fingerprint[:12]}… any more; open it again"
        )
    return data


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{root} holds no finished prepared data ({MANIFEST} is missing); {_REMEDY}") from None
    except ValueError:
        raise DataError(f"{path} is damaged (not valid JSON); {_REMEDY}") from None
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path} has format {manifest.get('format')}, this version reads {FORMAT}; {_REMEDY}")
    return manifest


def _read_table(root: Path, name: str, columns: Sequence[str], manifest: dict[str, Any]) -> dict[str, list[str]]:
    path = root / name
    data = path.read_bytes() if path.is_file() else b""
    if checksum(data) != manifest["tables"][name]:
        raise DataError(f"{path} is missing or was changed after it was written; {_REMEDY}")
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))[1:]
    return {column: [row[i] for row in rows] for i, column in enumerate(columns)}

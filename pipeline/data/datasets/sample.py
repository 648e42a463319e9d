"""`sample`: colour photographs from installed packages, so that everything runs without a download.

They are cut into overlapping squares at two or three scales and split by photograph; docs/data.md has their licences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.data.preparation.dataset import DATASETS, Box, Dataset, Photograph
from pipeline.stores.prepared import Split


@dataclass(frozen=True)
class _Source:
    """A file of an installed package. A grid is (edge, rows, columns) of squares evenly spaced over the photograph."""

    name: str
    file: str
    sha256: str
    size: tuple[int, int]  # height, width
    split: Split
    grids: tuple[tuple[int, int, int], ...]
    scene: str = ""

    def boxes(self) -> Iterator[Box]:
        height, width = self.size
        for edge, rows, columns in self.grids:
            for top in _spaced(height - edge, rows):
                for left in _spaced(width - edge, columns):
                    yield Box(top, left, edge)


def _spaced(room: int, count: int) -> list[int]:
    """`count` offsets from 0 to `room`; a single one is centred."""
    return [room // 2] if count == 1 else [room * i // (count - 1) for i in range(count)]


_MOTORCYCLE = ((500, 1, 2), (384, 2, 2), (256, 2, 4))
_SOURCES = (
    _Source(
        "astronaut",
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        (512, 512),
        "train",
        ((512, 1, 1), (384, 2, 2), (320, 2, 2), (256, 3, 3)),
    ),
    _Source(
        "motorcycle_left",
        "skimage/data/motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        (500, 741),
        "train",
        _MOTORCYCLE,
        scene="motorcycle",
    ),
    _Source(
        "motorcycle_right",
        "skimage/data/motorcycle_right.png",
        "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
        (500, 741),
        "train",
        _MOTORCYCLE,
        scene="motorcycle",
    ),
    _Source(
        "retina",
        "skimage/data/retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        (1411, 1411),
        "train",
        ((1411, 1, 1), (700, 2, 2)),
    ),
    _Source(
        "hubble_deep_field",
        "skimage/data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        (872, 1000),
        "train",
        ((436, 1, 1), (256, 1, 2)),
    ),
    _Source(
        "ihc",
        "skimage/data/ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        (512, 512),
        "train",
        ((512, 1, 1), (256, 2, 2), (384, 1, 1)),
    ),
    _Source(
        "rocket",
        "skimage/data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        (427, 640),
        "validation",
        ((427, 1, 2), (256, 2, 2)),
    ),
    _Source(
        "grace_hopper",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        (600, 512),
        "validation",
        ((512, 2, 1), (256, 2, 2)),
    ),
    _Source(
        "china",
        "sklearn/datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        (427, 640),
        "test",
        ((427, 1, 2), (256, 1, 3)),
    ),
    _Source(
        "flower",
        "sklearn/datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        (427, 640),
        "test",
        ((427, 1, 2), (256, 1, 3)),
    ),
    _Source(
        "chelsea",
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        (300, 451),
        "test",
        ((300, 1, 2), (256, 1, 3)),
    ),
    _Source(
        "coffee",
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        (400, 600),
        "test",
        ((400, 1, 2), (256, 1, 3)),
    ),
)


@DATASETS.register("sample")
class Sample(Dataset):
    """60 training, 12 validation and 20 test crops of twelve photographs, the same on every machine."""

    name = "sample"
    licence = (
        "public domain, CC0 and CC BY 2.0, and one research image pair; each photograph is credited in docs/data.md"
    )
    expected = len(_SOURCES)

    def photographs(self) -> Sequence[Photograph]:
        """Raises DataError when a package is missing or its file has another SHA-256."""
        return sorted(map(_photograph, _SOURCES), key=lambda photograph: photograph.id)


def _photograph(source: _Source) -> Photograph:
    path = _installed(source.file)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != source.sha256:
        raise DataError(
            f"sample: {source.file} has SHA-256 {found[:12]}… instead of {source.sha256[:12]}…, so the sample would "
            "not be the same everywhere; reinstall the versions pinned in requirements.txt"
        )
    boxes = tuple(source.boxes())
    return Photograph(source.name, path, source.file, source.split, source.scene or source.name, boxes)


def _installed(file: str) -> Path:
    package, _, name = file.partition("/")
    spec = find_spec(package)  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise DataError(f"sample: {file} is not installed; install the packages of requirements.txt")

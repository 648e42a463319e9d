"""A data set and a frozen network small enough for hundreds of extractions, with the interfaces of the real ones."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from shipped import extract_params, store_params
from torch import nn

from pipeline.backbones.base import FrozenNetwork
from pipeline.core.params import StoreParams
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.extraction.run import extract
from pipeline.stores.encoding import as_numpy, encode
from pipeline.stores.format import FORMATS
from pipeline.stores.layout import Layout
from pipeline.stores.manifest import Manifest

CPU = torch.device("cpu")
CROP = 16
ROUNDING = 1e-5  # of a layer's deviation: float32 features of other batches, threads or processors are nearer


class SmallData:
    """Random crops held in memory; four fifths of the rows are for training, a tenth each for the others."""

    root = Path("data/prepared")

    def __init__(self, rows: int = 40, crop: int = CROP, seed: int = 0) -> None:
        self.crop = crop
        self._pixels = np.random.default_rng(seed).integers(0, 256, (rows, crop, crop, 3), dtype=np.uint8)
        self.fingerprint = hashlib.sha256(self._pixels.tobytes()).hexdigest()
        self.image = np.arange(rows)  # one view of each

    def __len__(self) -> int:
        return len(self._pixels)

    def rows(self, split: str) -> np.ndarray:
        ends = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}[split]
        return np.arange(len(self) * ends[0] // 10, len(self) * ends[1] // 10)

    def crops(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        return np.take(self._pixels, rows, axis=0, out=out, mode="clip")

    def forget(self) -> None:
        """Nothing is mapped."""


class SmallBackbone(FrozenNetwork):
    """Two convolutions; `shallow` is 8×8×8, `deep` 16×4×4 for crops of 16. Counts the rows it is given."""

    name = "small"
    layers = ("shallow", "deep")

    def __init__(self, seed: int = 0, seconds: float = 0.0, name: str = "small") -> None:
        super().__init__()
        self.name, self.seconds, self.seen = name, seconds, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.seed = seed
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += len(images)
        time.sleep(self.seconds)
        shallow = torch.relu(self.first(images))
        return {"shallow": shallow, "deep": torch.relu(self.second(shallow))}

    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        h, w = image.height // 2, image.width // 2
        return {"shallow": FeatureShape(8, h, w), "deep": FeatureShape(16, h // 2, w // 2)}

    def describe(self) -> dict[str, object]:
        weights = {"kind": "random", "detail": f"seed {self.seed}", "sha256": f"{self.seed:064x}"}
        return {"name": self.name, "library": "torchvision", "model": "small", "weights": weights}


def small_extraction(root: Path, store: StoreParams | None = None, **changes: object) -> bool:
    """Extract into root/features/small with the work in root/work. `changes` are arguments of `extract`."""
    arguments: dict[str, object] = {
        "backbone": SmallBackbone(),
        "data": SmallData(),
        "output": root / "features" / "small",
        "store": store or small_params(),
        "settings": extract_params(batch_size=3),
        "device": CPU,
        "work": root / "work",
    }
    return extract(**{**arguments, **changes})  # type: ignore[arg-type]


def small_params(**changes: object) -> StoreParams:
    """A megabyte, the smallest shard, would hold everything: tests shrink it with `small_shards`."""
    return store_params(shard_megabytes=1, **changes)


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between two tables of features, in deviations of the expected ones."""
    return float(np.abs(found - expected).max() / expected.std())


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its contents."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def write_store(
    path: Path, features: torch.Tensor, format: str, dtype: str, compression: str, shard_rows: int
) -> Layout:
    """A finished store of `features` (rows, C, H, W), written shard by shard from the last to the first."""
    shape = FeatureShape(*features.shape[1:])
    layout = Layout(format, dtype, compression, shape, len(features), shard_rows)
    backend = FORMATS.get(format)()
    files = {}
    for shard in reversed(range(layout.shards)):
        writer, rows = backend.write_shard(path, layout, shard), layout.rows_of(shard)
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            if half:
                encoded = encode(features[half.start : half.stop], dtype)
                scales = None if encoded.scales is None else encoded.scales.numpy()
                writer.append(as_numpy(encoded.values), scales)
        files |= writer.finish()
    files |= backend.write_metadata(path, layout, {"stored_dtype": dtype})
    mean = features.mean((0, 2, 3)).numpy()
    std = features.std((0, 2, 3), correction=0).numpy()
    facts = {"backbone": {"name": path.parent.name}, "layer": path.name, "data": "d", "store": layout.facts()}
    Manifest(facts, layout, mean, std, files).write(path)
    return layout

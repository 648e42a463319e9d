"""`python -m benchmarks.deep_readout`: does a stronger ridge or a lower rank help the read-out of a deep layer?

Ridge regression from k×k neighbourhoods of the layer's features to the patch of pixels under each position, for several
strengths (of the mean eigenvalue) and ranks (of the fitted values). Prints the mean PSNR of validation and test
photographs. `--root` names a folder with data/prepared and features/efficientnet_lite0/stage4 (`stages prepare --root`,
`stages extract --root`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core.paths import Paths
from pipeline.core.tables import markdown_table
from pipeline.metrics.scores import capped_psnr
from pipeline.stores.encoding import rgb
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

KERNELS, STRENGTHS, RANKS = (1, 3, 5), (1e-3, 1e-2, 1e-1, 3e-1, 1.0, 3.0), (8, 32, 768)
SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--layer", default="stage4")
    options = parser.parse_args()
    paths = Paths.below(options.root)
    data = PreparedData.open(paths.data)
    store = open_store(paths.features / "efficientnet_lite0" / options.layer)
    features = {split: torch.from_numpy(store.read(data.rows(split))) for split in SPLITS}
    deviation, mean = torch.std_mean(features["train"], (0, 2, 3), keepdim=True)
    features = {split: (values - mean) / deviation for split, values in features.items()}
    crops = {split: rgb(torch.from_numpy(data.crops(data.rows(split)))) for split in SPLITS}
    edge = crops["train"].shape[-1] // features["train"].shape[-1]
    centre = _patches(crops["train"], edge).mean(0)
    rows = []
    for kernel in KERNELS:
        known = _windows(features["train"], kernel).double()
        gram, mixed = known.T @ known, known.T @ (_patches(crops["train"], edge) - centre).double()
        for strength in STRENGTHS:
            ridge = strength * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
            weights = torch.linalg.solve(gram + ridge, mixed)
            directions = torch.linalg.eigh(weights.T @ gram @ weights).eigenvectors
            for rank in RANKS:
                kept = directions[:, -rank:]
                scores = [
                    _psnr(_windows(features[split], kernel).double() @ weights @ kept @ kept.T + centre, crops[split])
                    for split in SPLITS[1:]
                ]
                rows.append([str(kernel), f"{strength:g}", str(rank), *(f"{value:.2f}" for value in scores)])
    print(markdown_table(["kernel", "strength", "rank", *SPLITS[1:]], rows))


def _windows(features: Tensor, kernel: int) -> Tensor:
    """(B, C, h, w) → (B·h·w, C·k·k)."""
    padded = F.pad(features, (kernel // 2,) * 4, mode="replicate")
    return F.unfold(padded, kernel).transpose(1, 2).flatten(0, 1)


def _patches(images: Tensor, edge: int) -> Tensor:
    """(B, 3, H, W) → (B·h·w, 3·edge·edge)."""
    return F.unfold(images, edge, stride=edge).transpose(1, 2).flatten(0, 1)


def _psnr(patches: Tensor, images: Tensor) -> float:
    edge = int((patches.shape[1] // 3) ** 0.5)
    folded = patches.view(len(images), -1, patches.shape[1]).transpose(1, 2)
    return float(capped_psnr(F.fold(folded, images.shape[-2:], edge, stride=edge).clamp(0, 1), images).mean())


if __name__ == "__main__":
    main()

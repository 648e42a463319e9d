"""`python -m benchmarks.store`: the feature store against np.memmap, plain zarr, plain h5py and a DataLoader.

It prints one table of ratios, each within this run, because absolute speeds drift and two readers that take turns on
one machine can be compared. The features are those of the sample photographs in a random VGG-16. Exit code 1 if a bar
does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.bars import Line, markdown
from benchmarks.store_extraction import epochs, exact_features, extract_once, extraction, memory, sample
from benchmarks.store_reading import cold, fidelity, reading, sizes, writing
from pipeline.core.runtime import choose_device
from pipeline.stores.opening import open_store

SECTIONS = ("extraction", "epochs", "reading", "writing", "fidelity", "cold", "memory")
BLOCKS = ("block1", "block2", "block3", "block4", "block5")


def run(root: Path, sections: list[str], rounds: int, device: torch.device) -> list[Line]:
    """All lines of the table, in the order of `sections`; what they write is below `root`."""
    data = sample(root)
    lines: list[Line] = []
    if "extraction" in sections:
        for precision in ("fp32",) if device.type == "cpu" else ("fp32", "bf16"):
            lines += extraction(root, data, BLOCKS, precision, device, rounds)
            lines += extraction(root, data, BLOCKS[:1], precision, device, rounds)
    extract_once(root, data, device)
    store = open_store(root / "features/block1")
    features = np.empty((store.rows, *store.layout.row_shape), np.float16)
    store.read_into(np.arange(store.rows), features)
    small = small_rows(features)
    if "epochs" in sections:
        lines += epochs(root, data, device, rounds)
    if "reading" in sections:
        lines += reading(root / "large", features, 0.8, rounds) + sizes(root / "large", features)
        lines += reading(root / "small", small, 0.5, rounds)
    if "writing" in sections:
        lines += writing(root / "writing", features, rounds)
    if "fidelity" in sections:
        lines += fidelity(exact_features(data, device))
    if "cold" in sections:
        lines += cold(root / "large", features, rounds) + cold(root / "small", small, rounds)
    return lines + (memory() if "memory" in sections else [])


def small_rows(features: np.ndarray) -> np.ndarray:
    """The same numbers as rows of 50 kB, (rows, 512, 7, 7): thousands of them, more than any processor's cache."""
    return features.reshape(-1, 512, 7, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each measurement is repeated")
    parser.add_argument("--device", default="cpu", help="of the extraction and the epochs")
    parser.add_argument("--folder", type=Path, help="where about 4 GB are written for a while (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lines = run(Path(folder), options.only, options.rounds, choose_device(options.device))
    print(markdown(lines))
    if not all(line.bar is None or line.bar.holds(line.ratio) for line in lines):
        sys.exit("a bar does not hold")


if __name__ == "__main__":
    main()

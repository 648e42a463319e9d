"""`python -m benchmarks.published`: how long the literature's training takes, by the stages' own commands.

`transposed_conv` on vgg16.block1 with `train.protocol=published`, without a warm start and without stopping early: all
epochs over --images photographs, which are cut-outs of the sample's. Prepared, extracted and trained in a folder of
its own; the time is that of `python -m stages train` from start to end.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import pandas as pd

from benchmarks.decoders import Experiments
from benchmarks.prepare import photographs
from pipeline.core.runtime import choose_device, provenance
from pipeline.stores.prepared import PreparedData

SOURCE, DECODER = "vgg16.block1", "transposed_conv"
FOLDERS = ("train", "validation", "test")


def measure(options: argparse.Namespace) -> str:
    """One sentence: seconds, images a second and the share of the time spent waiting, on which device."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        experiments = Experiments(root, [SOURCE], [*_photographs(root, options.images), *options.set], options.device)
        experiments.extract()
        published = ["train.protocol=published", "train.warm_start=none", "protocols.published.early_stopping=0"]
        spent = experiments.train(SOURCE, DECODER, [*published, f"protocols.published.epochs={options.epochs}"])
        speed = pd.read_csv(root / "metrics/training_speed.csv")
        data = PreparedData.open(root / "data/prepared")
        images = len(set(data.image[data.rows("train")]))  # two cut-outs may be the same one
    return (
        f"{DECODER} on {SOURCE}, protocol published, {provenance(choose_device(options.device))['device']}: "
        f"{len(speed)} epochs over {images} images in {spent:.1f} s of `train`, start of Python included; "
        f"{speed['samples_per_second'].median():.1f} images/s in the median epoch, "
        f"{100 * speed['waiting_share'].median():.1f} % of it waiting for batches"
    )


def _photographs(root: Path, images: int) -> list[str]:
    """Folders of training, validation (a tenth as many) and test photographs; the settings that choose them."""
    counts = (images, max(1, images // 10), 1)
    cut = iter(photographs(root / "photographs", sum(counts), "imagenet_val"))
    for name, count in zip(FOLDERS, counts, strict=True):
        (root / "photographs" / name).mkdir()
        for path in islice(cut, count):
            path.rename(root / "photographs" / name / path.name)
    named = [f"datasets.folder.{name}={name}" for name in FOLDERS]
    return ["dataset=folder", f"datasets.folder.root={root / 'photographs'}", *named]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640, help="training photographs")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of params.yaml")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(measure(parse()))

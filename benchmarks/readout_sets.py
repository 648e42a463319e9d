"""`python -m benchmarks.readout_sets`: the read-out of two layers beside that of each, on six photographs, 224 pixels.

Four photographs of the sample are for fitting, two for validation: the PSNR of the mean error, as `train` prints it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbones.backbone import load_backbone
from pipeline.core.params import load_params
from pipeline.core.section import Section
from pipeline.core.sources import FeatureShape, ImageSize, Inputs, Source
from pipeline.data.preparation.dataset import DATASETS
from pipeline.data.preparation.decoding import decode
from pipeline.loading.loader import Batch
from pipeline.metrics.scores import decibels
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.training.readout import load_readout, readout_state, solve_readout

TRAIN = ("astronaut", "hubble_deep_field", "ihc", "motorcycle_left")
VALIDATION = ("grace_hopper", "rocket")
SETS = (("efficientnet_lite0.stage1", "efficientnet_lite0.stage3"), ("vgg16.block1", "vgg16.block3"))
CROP = 224


@dataclass(frozen=True)
class Held:
    """`PreparedData` and `CachedFeatures` of features held in memory."""

    features: Sequence[Tensor]
    images: Tensor

    def rows(self, split: str) -> NDArray[np.int64]:
        return np.arange(len(TRAIN)) if split == "train" else np.arange(len(TRAIN), len(self.images))

    def batches(self, parts: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        for rows in parts:
            yield Batch(rows, Inputs(tuple(each[rows] for each in self.features)), self.images[rows])


def photographs() -> Tensor:
    """(6, 3, 224, 224) in [0, 1]: the centre of the first square of each photograph."""
    rules = load_params().prepare
    found = {photograph.id: photograph for photograph in DATASETS.get("sample")(Section(), 0).photographs()}
    start = (rules.size - CROP) // 2
    pixels = [decode(replace(found[n], boxes=found[n].boxes[:1]), rules).pixels[0] for n in TRAIN + VALIDATION]
    images = np.stack(pixels)[:, start : start + CROP, start : start + CROP]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def psnr(features: dict[str, Tensor], names: Sequence[str], images: Tensor) -> float:
    """dB on the validation photographs, of the read-out of the layers `names`."""
    held = Held([features[name] for name in names], images)
    shapes = {Source.parse(name): FeatureShape(*features[name].shape[1:]) for name in names}
    inverter = Inverter(Blueprint.of(load_params(overrides=("decoder=linear",)), shapes, ImageSize(CROP, CROP)))
    train = [each[held.rows("train")].double() for each in held.features]
    inverter.fit_statistics([(x.mean((0, 2, 3)).float(), x.std((0, 2, 3)).float()) for x in train])
    load_readout(inverter, readout_state(solve_readout(inverter, held, held)))  # type: ignore[arg-type]
    (batch,) = held.batches([held.rows("validation")])
    with torch.no_grad():
        error = (inverter.train()(batch.inputs) - batch.targets).double().square().mean()
    return float(decibels(error))


def measure(names: Sequence[str], images: Tensor) -> list[float]:
    """dB of each of the layers `names`, which are of one backbone, and of all together."""
    params, sources = load_params(), [Source.parse(name) for name in names]
    backbone = load_backbone(
        sources[0].backbone,
        params.backbone_params(sources[0].backbone),
        torch.device("cpu"),
        [source.layer for source in sources],
    )
    with torch.no_grad():
        features = dict(zip(names, backbone(images).values(), strict=True))
    return [psnr(features, each, images) for each in (*([name] for name in names), names)]


def main() -> None:
    print(
        "| sources | first alone | second alone | set | set minus best member | CPU seconds |\n"
        "|---|---|---|---|---|---|"
    )
    for names in SETS:
        start = time.process_time()
        *members, both = measure(names, photographs())
        spent = time.process_time() - start
        scores = " | ".join(f"{value:.2f}" for value in (*members, both))
        weights = load_params().backbone_params(names[0].partition(".")[0]).weights
        print(
            f"| {' + '.join(names)} ({weights}) | {scores} | {both - max(members):+.2f} dB | {spent:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
